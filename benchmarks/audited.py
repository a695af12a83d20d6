"""What the planted faults are planted into: a small network, its loss, a feature, and the audits of all three."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpib.draws import Draws
from dpib.privacy.audit.canaries import audit_canaries
from dpib.privacy.audit.counts import audit_counts
from dpib.privacy.audit.findings import Finding
from dpib.privacy.audit.repetition import audit_distances, audit_names
from dpib.privacy.audit.selection import audit_selection
from dpib.privacy.audit.steps import audit_steps
from dpib.privacy.audit.sums import audit_sum
from dpib.privacy.audit.together import audit_together
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec

SHAPE, CLASSES = (1, 8, 8), 4
STEPS = Charge("steps", "gaussian", "made up", sigma=1.0, rate=0.1, count=100)
SUM = Charge("sum", "gaussian", "made up", sigma=2.0)
SPEC = GradientSpec(clip=0.01, seed=0, strategy="vmap")


class Net(nn.Module):
    """A convolution, a group norm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Noisy:
    """Cross-entropy of K noised copies of an image."""

    multiplicity = 4

    def rows(self, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        return x[:, None].float() / 255 + draws.normal(4, *x.shape[1:]), y[:, None].expand(-1, 4)

    def per_row(self, model: nn.Module, *rows: Tensor) -> Tensor:
        return F.cross_entropy(model(rows[0]), rows[1], reduction="none")


class Pixels:
    """The image and a constant, by class, of norm at most 1."""

    def rows(self, x: Tensor) -> Tensor:
        pixels = x.float().flatten(1) / 255 / 8
        return torch.cat([pixels, torch.ones(len(x), 1)], 1) / 2**0.5

    def norms(self, x: Tensor, y: Tensor) -> Tensor:
        return self.rows(x).norm(dim=1)

    def weighted_sum(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        return (F.one_hot(y, CLASSES).T.float() * weights.float()) @ self.rows(x)


def model() -> nn.Module:
    """Return the audited network, the same every time."""
    torch.manual_seed(0)
    return Net()


def steps() -> Iterator[list[Finding]]:
    """Yield the findings about DP-SGD, layer by layer."""
    yield audit_steps(STEPS, Noisy(), model(), SPEC, SHAPE, CLASSES)
    yield audit_together(STEPS, SPEC, 4)
    yield audit_canaries(STEPS, SPEC, 4, 5000)
    yield audit_distances(STEPS, SPEC)


def sums() -> Iterator[list[Finding]]:
    """Yield the findings about a released sum."""
    yield audit_sum(SUM, Pixels(), SHAPE, CLASSES)


def selections() -> Iterator[list[Finding]]:
    """Yield the findings about selection."""
    yield audit_selection("zero_out")


def names() -> Iterator[list[Finding]]:
    """Yield the findings about releases by several names."""
    yield audit_names()


def counts() -> Iterator[list[Finding]]:
    """Yield the findings about released counts."""
    yield audit_counts()
