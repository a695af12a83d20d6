"""What the strategies share: the record's loss, the parameters, clipping."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn


class RecordLoss(Protocol):
    """The loss of one record: the mean over `multiplicity` noise draws (Dockhorn et al. 2023, DPDM)."""

    @property
    def multiplicity(self) -> int:
        """The number K of noise draws per record."""

    def rows(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the K rows of one record: `x` uint8 [1, c, h, w], `y` int64 [1] -> tensors [K, ...]."""

    def per_row(self, model: nn.Module, *rows: Tensor) -> Tensor:
        """Return one loss per row, float [rows]; row i depends on row i of each tensor alone."""


class Unsupported(Exception):
    """A strategy cannot compute the per-record gradients of this model; the message says why."""


Rows: TypeAlias = tuple[Tensor, ...]
"""The draws of b records: tensors [b, K, ...]."""

ClippedSum = Callable[[nn.Module, RecordLoss, Rows, float], list[Tensor]]
"""Maps (model, loss, rows, clip) to the sum over records of clipped gradients, one tensor per parameter.

The norm of a record's gradient (of the mean of its K losses) is taken over all trainable parameters at
once. A record whose norm is not finite contributes nothing. Raises `Unsupported`.
"""


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that take part, each once, in the order of `model.parameters()`."""
    return [p for p in model.parameters() if p.requires_grad]


def factors(norms: Tensor, clip: float) -> Tensor:
    """Return min(1, clip / norm) of every record, and 0 where the norm is not finite."""
    return torch.where(torch.isfinite(norms), (clip / norms).clamp(max=1), 0)


def clip_and_sum(gradients: Sequence[Tensor], clip: float) -> list[Tensor]:
    """Clip per-record gradients [b, *shape], one tensor per parameter, and sum them over the records."""
    flat = [g.flatten(1) for g in gradients]
    norms = torch.linalg.vector_norm(torch.stack([g.norm(dim=1) for g in flat]), dim=0)
    weights = factors(norms, clip)
    if not bool(torch.isfinite(norms).all()):
        # Nothing times NaN is NaN: such records leave before the product.
        keep = torch.isfinite(norms)
        flat, weights = [g[keep] for g in flat], weights[keep]
    return [(weights @ f).view(g.shape[1:]) for f, g in zip(flat, gradients, strict=True)]
