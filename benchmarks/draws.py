"""Host time of what a private step does beside the network: draws of its records, sampling, privacy noise.

    python -m benchmarks.draws

Draws by counter take turns with torch's own numbers for the same rows, in one process; medians over rounds.
"""

import statistics
import time
from collections.abc import Callable

import click
import torch

from benchmarks.turns import in_turns
from dpib.diffusion.loss import DenoisingLoss, LossSettings
from dpib.images import Images
from dpib.privacy.per_record.draws import draw
from dpib.privacy.rng import NoiseSource
from dpib.privacy.sampling import poisson

_N, _CLASSES = 55_000, 10


@click.command()
@click.option("--records", default=64, help="of a chunk")
@click.option("--parameters", default=8_000_000, help="of the network that is noised")
@click.option("--rounds", default=9)
@click.option("--threads", default=1)
@click.option("--device", default="cpu")
def main(records: int, parameters: int, rounds: int, threads: int, device: str) -> None:
    """Print microseconds of host time per record, and milliseconds of noise per step."""
    torch.set_num_threads(threads)
    where = torch.device(device)
    stream = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (_N, 1, 28, 28), generator=stream, dtype=torch.uint8)
    images = Images(x, torch.arange(_N) % _CLASSES)
    index = torch.randperm(_N, generator=stream)[:records]
    click.echo("| K | draws, us per record | torch.randn of the same numbers |\n| --- | --- | --- |")
    for k in (1, 8, 32):
        loss = DenoisingLoss(LossSettings(), _CLASSES, k)
        ours, bare = _medians(
            rounds,
            lambda loss=loss: draw(loss, images, index, 0, 0, where),
            lambda k=k: torch.randn(records, k, 1, 28, 28),
        )
        click.echo(f"| {k} | {1e6 * ours / records:.0f} | {1e6 * bare / records:.0f} |")
    noise = NoiseSource()
    sampled, noised, bare = _medians(
        rounds,
        lambda: poisson(noise, _N, records / _N, None),
        lambda: noise.normal((parameters,)),
        lambda: torch.randn(parameters),
    )
    click.echo(f"sampling of {_N} records: {1e6 * sampled / records:.1f} us per record of the batch")
    click.echo(f"privacy noise of {parameters} parameters: {1e3 * noised:.0f} ms (torch.randn {1e3 * bare:.0f})")


def _medians(rounds: int, *sides: Callable[[], object]) -> list[float]:
    return [statistics.median(took) for took in in_turns(sides, rounds, time.perf_counter)]


if __name__ == "__main__":
    main()
