"""The sides of `dp_step`: one training step each, on the same model, batch and number of rows."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from torch import Tensor, nn

from benchmarks.denoising import workload
from dpib.distributed import World
from dpib.draws import Draws
from dpib.images import Images
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec, Strategy, prepare
from dpib.privacy.per_record.autotune import STRATEGIES
from dpib.privacy.per_record.base import RecordLoss
from dpib.privacy.per_record.hooks import contiguous_conv
from dpib.privacy.rng import NoiseSource

CLIP, SIGMA = 1e-3, 2.0
NON_PRIVATE, OPACUS = "non-private", "plain Opacus hooks"


def names(multiplicity: int) -> list[str]:
    """Return the sides, the non-private one first; our hooks serve K = 1 alone."""
    ours = [name for name in STRATEGIES if multiplicity == 1 or name != "hooks"]
    return [NON_PRIVATE, OPACUS, *ours]


@dataclass(frozen=True)
class Work:
    """What all sides do: a network, the rows of a step, K of them to a record, and how many records at a time."""

    network: str
    rows: int
    multiplicity: int
    physical: int | None
    device: torch.device

    @property
    def records(self) -> int:
        """Return B."""
        return self.rows // self.multiplicity


def step(name: str, work: Work) -> Callable[[], None]:
    """Return a function that makes one training step: draw the rows, gradient, noise unless non-private, Adam."""
    stream, device = torch.Generator().manual_seed(0), work.device
    x = torch.randint(0, 256, (work.records, 1, 28, 28), generator=stream, dtype=torch.uint8)
    images, (model, loss) = Images(x, torch.arange(work.records) % 10), workload(work.network, work.multiplicity)
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    if name == NON_PRIVATE:
        gradients = _exact(images, loss, model, device)
    elif name == OPACUS:
        gradients = _opacus(images, loss, model, device)
    else:
        gradients = _ours(images, loss, model, name, work.physical)

    def run() -> None:
        for parameter, gradient in zip(model.parameters(), next(gradients), strict=True):
            parameter.grad = gradient
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


class _Bare:
    """The draws of published code: torch's own, for the whole batch at once."""

    def __init__(self, records: int) -> None:
        self._records = records

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self._records, *shape)


def _drawn(images: Images, loss: RecordLoss, device: torch.device) -> list[Tensor]:
    rows = loss.rows(images.x, images.y, cast(Draws, _Bare(len(images))))
    return [row.flatten(0, 1).to(device) for row in rows]


def _exact(images: Images, loss: RecordLoss, model: nn.Module, device: torch.device) -> Iterator[list[Tensor]]:
    while True:
        value = loss.per_row(model, *_drawn(images, loss, device)).mean()
        yield list(torch.autograd.grad(value, list(model.parameters())))


def _ours(
    images: Images, loss: RecordLoss, model: nn.Module, name: Strategy, physical: int | None
) -> Iterator[list[Tensor]]:
    charge = Charge("step", "gaussian", "", sigma=SIGMA, count=10**6)
    spec = GradientSpec(CLIP, 0, strategy=name, physical=physical, classes=10)
    for gradients in prepare(images, charge, loss, model, spec, NoiseSource(), World()):
        yield gradients.of


def _opacus(images: Images, loss: RecordLoss, model: nn.Module, device: torch.device) -> Iterator[list[Tensor]]:
    """Yield DP-SGD gradients as published code takes them: one gradient per row, then the mean over a record's rows.

    With the convolution sampler that dpib sets right; Opacus' own is as fast, and wrong on this model.
    """
    warnings.filterwarnings("ignore", "Full backward hook is firing")  # the first layer's input needs no gradient
    parameters = list(model.parameters())
    hooks = GradSampleHooks(model, loss_reduction="sum")
    hooks.GRAD_SAMPLERS = {**hooks.GRAD_SAMPLERS, nn.Conv2d: contiguous_conv}
    while True:
        hooks.set_grad_sample_to_none()
        loss.per_row(model, *_drawn(images, loss, device)).sum().backward()
        for p in parameters:
            p.grad = None
        rows = [p.grad_sample.unflatten(0, (len(images), -1)).mean(1) for p in parameters]
        norms = torch.stack([row.flatten(1).norm(dim=1) for row in rows]).norm(dim=0)
        factors = (CLIP / (norms + 1e-6)).clamp(max=1)
        sums = [torch.einsum("b,b...->...", factors, row) for row in rows]
        yield [(s + SIGMA * CLIP * torch.randn_like(s)) / len(images) for s in sums]
