"""What a GPU needs for a diffusion training: private steps, host time, memory, pretraining and sampling.

    python -m benchmarks.gpu

Both sides of a step work on the same network and as many rows, in chunks of the same size, in turns; a ratio is the
median over rounds of (private / non-private in the same round). Runs on a CPU too, with small numbers.
"""

import statistics
import time
import warnings
from collections.abc import Callable

import click
import torch
from torch import Tensor

from benchmarks.denoising import workload
from benchmarks.turns import in_turns
from dpib.diffusion.sampler import SamplerSettings, sample
from dpib.distributed import World
from dpib.draws import Draws
from dpib.images import Images
from dpib.precision import Precision
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec, PrivateSteps, prepare
from dpib.privacy.per_record.base import RecordLoss
from dpib.privacy.per_record.draws import draw
from dpib.privacy.per_record.lowered import Lowered
from dpib.privacy.rng import NoiseSource

COLUMNS = ("network", "precision", "strategy", "chunk", "non-private, ms", "private, ms", "ratio", "host / device",
           "waits", "peak, MB", "pretraining, images/s", "sampling, images/s")  # fmt: skip
_CLIP, _SIGMA, _CLASSES = 1e-3, 2.0, 10


@click.command()
@click.option("--device", default="cuda")
@click.option("--network", "networks", multiple=True, default=("fast", "paper"), help="profiles of DPDM on MNIST")
@click.option("--precision", "precisions", multiple=True, default=("fp32", "bf16"))
@click.option("--batch", default=4096, help="B, records of a logical step")
@click.option("--multiplicity", default=32, help="K, noise draws per record")
@click.option("--rounds", default=5)
@click.option("--images", default=512, help="that are sampled")
@click.option("--sampler-steps", default=18)
def main(
    device: str,
    networks: tuple[str, ...],
    precisions: tuple[Precision, ...],
    batch: int,
    multiplicity: int,
    rounds: int,
    images: int,
    sampler_steps: int,
) -> None:
    """Print one line per network and precision as a Markdown table."""
    where = torch.device(device)
    if where.type == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("this machine has no GPU that torch can use: give --device cpu and small numbers")
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    click.echo(f"{name}, torch {torch.__version__}, B = {batch}, K = {multiplicity}, {rounds} rounds\n")
    click.echo("| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|")
    for network in networks:
        for precision in precisions:
            bench = Bench(network, precision, batch, multiplicity, where)
            cells = (network, precision, *bench.steps(rounds), *bench.rates(rounds, images, sampler_steps))
            click.echo("| " + " | ".join(cells) + " |")


class Bench:
    """One network in one precision on one device."""

    def __init__(self, network: str, precision: Precision, batch: int, multiplicity: int, device: torch.device) -> None:
        self.device, self.batch = device, batch
        model, loss = workload(network, multiplicity)
        self.model = model.to(device)
        self.loss: RecordLoss = Lowered(loss) if precision == "bf16" else loss
        stream = torch.Generator().manual_seed(0)
        x = torch.randint(0, 256, (batch, 1, 28, 28), generator=stream, dtype=torch.uint8)
        self.records = Images(x, torch.arange(batch) % _CLASSES)
        charge = Charge("step", "gaussian", "", sigma=_SIGMA, count=10**6)
        spec = GradientSpec(_CLIP, 0, classes=_CLASSES, precision=precision)
        self.private: PrivateSteps = prepare(self.records, charge, loss, self.model, spec, NoiseSource(), World())
        self.parameters = list(self.model.parameters())

    def steps(self, rounds: int) -> tuple[str, ...]:
        """Return the cells about a logical step of B records."""
        optimizer = torch.optim.Adam(self.parameters, lr=1e-6)
        gradients = iter(self.private)

        def private() -> None:
            self._apply(optimizer, next(gradients).of)

        def exact() -> None:
            self._apply(optimizer, self._exact())

        plain, noised = in_turns([exact, private], rounds, self._now)
        ratio = statistics.median(b / a for a, b in zip(plain, noised, strict=True))
        times = (f"{1000 * statistics.median(took):.0f}" for took in (plain, noised))
        waits, peak = self._waits(private), self._peak(private)
        chunk = self.private.choice
        return (chunk.name, str(chunk.physical), *times, f"{ratio:.2f}", f"{self._host():.2f}", waits, peak)

    def rates(self, rounds: int, images: int, steps: int) -> tuple[str, str]:
        """Return images per second of pretraining, in batches of a chunk's rows, and of sampling."""
        optimizer = torch.optim.Adam(self.parameters, lr=1e-6)
        index = torch.arange(min(self.batch, self.private.choice.physical))
        labels = torch.arange(images, device=self.device) % _CLASSES
        settings = SamplerSettings(name="edm", steps=steps)

        def learn() -> None:
            self._apply(optimizer, self._gradients(index, len(index)))

        def look() -> None:
            with torch.no_grad():
                sample(self.model, labels, (1, 28, 28), settings, _CLASSES, torch.Generator().manual_seed(0))

        learnt, seen = (statistics.median(took) for took in in_turns([learn, look], rounds, self._now))
        return f"{len(index) * self.loss.multiplicity / learnt:.0f}", f"{images / seen:.0f}"

    def _apply(self, optimizer: torch.optim.Optimizer, gradients: list[Tensor]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()

    def _exact(self) -> list[Tensor]:
        total = [torch.zeros_like(p) for p in self.parameters]
        for piece in torch.arange(self.batch).split(self.private.choice.physical):
            for sum_, part in zip(total, self._gradients(piece, self.batch), strict=True):
                sum_ += part
        return total

    def _gradients(self, index: Tensor, over: int) -> list[Tensor]:
        x, y = self.records.x[index].to(self.device), self.records.y[index].to(self.device)
        rows = self.loss.rows(x, y, Draws(0, index.to(self.device)))
        value = self.loss.per_row(self.model, *(row.flatten(0, 1) for row in rows)).sum()
        return list(torch.autograd.grad(value / (over * self.loss.multiplicity), self.parameters))

    def _host(self) -> float:
        """Return host time over device time of a chunk: below 1 the device has always something to do."""
        index = torch.arange(min(self.batch, self.private.choice.physical))
        shares = []
        for _ in range(3):
            begun = self._now()
            rows = draw(self.loss, self.records, index, 0, 0, self.device)
            self.private.choice.clipped_sum(self.model, self.loss, rows, _CLIP)
            asked = time.perf_counter() - begun
            shares.append(asked / (self._now() - begun))
        return statistics.median(shares)

    def _waits(self, private: Callable[[], None]) -> str:
        """Return how many times the host waits for the device in a step."""
        if self.device.type != "cuda":
            return ""
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                private()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return str(sum("synchroniz" in str(each.message) for each in told))

    def _peak(self, private: Callable[[], None]) -> str:
        """Return the megabytes that a step needs above what stays between steps."""
        if self.device.type != "cuda":
            return ""
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        private()
        return f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f}"

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


if __name__ == "__main__":
    main()
