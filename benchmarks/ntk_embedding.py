"""DP-NTK's embedding of a whole data set by matrix products, against a loop over records.

    python -m benchmarks.ntk_embedding

Both sides compute the class-wise sum of normalised gradients of the same network and the counts. The loop takes one
record's gradient by autograd, as the published code does, of a few records only: its time is scaled up to all. They
take turns, so that a busy machine slows both alike; the ratio is the median over rounds.
"""

import statistics
import time

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.turns import in_turns
from dpib import seeding
from dpib.kernels.embedding import Embedding
from dpib.kernels.ntk import NtkFeatures, NtkSettings

CLASSES, BATCH = 10, 1000


def summed(feature: Embedding, x: Tensor, y: Tensor) -> Tensor:
    """Return what the vault sums: norms, then the weighted sum, a thousand records at a time, in float64."""
    parts = (
        feature.weighted_sum(a, b, 1 / feature.norms(a, b).clamp(min=1))
        for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True)
    )
    total = next(parts).double()
    for part in parts:
        total.add_(part)
    return total


def looped(features: NtkFeatures, x: Tensor, y: Tensor) -> Tensor:
    """Return the same sum, without counts, from one backward pass per record."""
    parameters = [p.clone().requires_grad_() for layer in features.layers for p in layer]
    pairs = list(zip(parameters[::2], parameters[1::2], strict=True))
    total = torch.zeros(CLASSES, sum(p.numel() for p in parameters))
    for image, label in zip(x, y.tolist(), strict=True):
        h = F.relu(F.linear(image.float().flatten()[None] / 255, *pairs[0]))
        for layer in pairs[1:-1]:
            h = F.linear(h, *layer)
        value = F.linear(F.layer_norm(h, h.shape[1:]), *pairs[-1]).sum()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])
        total[label] += gradient / gradient.norm()
    return total


@click.command()
@click.option("--records", default=55_000)
@click.option("--looped", "few", default=200, help="records of the loop")
@click.option("--side", default=28, help="pixels of an image's side, one channel")
@click.option("--hidden", default="800", help="widths of the hidden layers, e.g. 32,256")
@click.option("--rounds", default=3)
@click.option("--threads", default=1)
def main(records: int, few: int, side: int, hidden: str, rounds: int, threads: int) -> None:
    """Print seconds for the whole set on both sides, and their ratio, as a Markdown table."""
    torch.set_num_threads(threads)
    settings = NtkSettings(kind="ntk", hidden=[int(width) for width in hidden.split(",")], outputs=CLASSES)
    features = NtkFeatures(settings, (1, side, side), seeding.generator(0, "f"), torch.device("cpu"))
    feature = Embedding(features, CLASSES, settings.count_weight, torch.device("cpu"))
    x = torch.randint(0, 256, (records, 1, side, side), generator=seeding.generator(0, "x"), dtype=torch.uint8)
    y = torch.arange(records) % CLASSES
    sides = [lambda: summed(feature, x, y), lambda: looped(features, x[:few], y[:few])]
    ours, loop = in_turns(sides, rounds, time.perf_counter)
    scaled = [took * records / few for took in loop]
    ratio = statistics.median(b / a for a, b in zip(ours, scaled, strict=True))
    print(f"| {records} images | s | times |\n|---|---|---|")
    print(f"| matrix products, D = {features.dimension:,} | {statistics.median(ours):.1f} | 1 |")
    print(f"| a loop over records, from {few} of them | {statistics.median(scaled):.0f} | {ratio:.0f} |")


if __name__ == "__main__":
    main()
