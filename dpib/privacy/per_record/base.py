"""What the strategies share: the record's loss, the parameters, clipping."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from dpib.draws import Draws


class RecordLoss(Protocol):
    """The loss of one record: the mean over `multiplicity` noise draws (Dockhorn et al. 2023, DPDM)."""

    @property
    def multiplicity(self) -> int:
        """The number K of noise draws per record."""

    def rows(self, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        """Draw the K rows of every record, from the record and its draws alone.

        Args:
            x: uint8 [b, c, h, w].
            y: int64 [b].
            draws: of these records, on their device.

        Returns:
            tensors [b, K, ...].
        """

    def per_row(self, model: nn.Module, *rows: Tensor) -> Tensor:
        """Return one loss per row, float [rows]; row i depends on row i of each tensor alone."""


class Unsupported(Exception):
    """A strategy cannot compute the per-record gradients of this model; the message says why."""


Rows: TypeAlias = tuple[Tensor, ...]
"""The draws of b records: tensors [b, K, ...]."""

ClippedSum = Callable[[nn.Module, RecordLoss, Rows, float], list[Tensor]]
"""Maps (model, loss, rows, clip) to the sum over records of clipped gradients, one tensor per parameter.

The norm of a record's gradient (of the mean of its K losses) is taken over all trainable parameters at
once. A record whose norm is not finite, or above `LARGEST`, contributes nothing. Raises `Unsupported`.
"""


LARGEST = 1e19
"""The largest norm of a record that is clipped; the square of a larger number overflows float32."""

LEAST_CLIP = 1e-12
"""The smallest clip: below it the squares of float32 gradients vanish, and their norm with them."""

_BLOCK = 64
_SMALL = 1024  # entries of a parameter
_ANSWERS_AT_ONCE = ("cpu",)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that take part, each once, in the order of `model.parameters()`."""
    return [p for p in model.parameters() if p.requires_grad]


def factors(norms: Tensor, clip: float) -> Tensor:
    """Return min(1, clip / norm) of every record, and 0 where the norm is not finite or above `LARGEST`."""
    return torch.where(bounded(norms), (clip / norms).clamp(max=1), 0)


def bounded(norms: Tensor) -> Tensor:
    """Return which records have a norm that can be relied upon, bool [b]; the others contribute nothing."""
    return norms <= LARGEST


def norms(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of every record's gradient over all parameters, float64 [b], from tensors [b, n]."""
    whole: Tensor = torch.linalg.vector_norm(torch.stack([_row_norms(g) for g in gradients]), dim=0)
    return whole


def _row_norms(rows: Tensor) -> Tensor:
    """Return the norms of the rows of [b, n], float64, right to 1e-6 for any n.

    A running sum of squares in float32 stops growing: at 17 million entries it misses 0.2 %. Sums over short
    blocks do not, and they spare the copy in float64, which would take ten times as long.
    """
    whole = rows.shape[1] // _BLOCK * _BLOCK if rows.shape[1] >= 16 * _BLOCK else 0
    rest: Tensor = torch.linalg.vector_norm(rows[:, whole:], dim=1, dtype=torch.float64)
    if not whole:
        return rest
    blocks = torch.linalg.vector_norm(rows[:, :whole].unflatten(1, (-1, _BLOCK)), dim=2)
    return torch.hypot(torch.linalg.vector_norm(blocks, dim=1, dtype=torch.float64), rest)


def clip_and_sum(gradients: Sequence[Tensor], clip: float) -> list[Tensor]:
    """Clip per-record gradients [b, *shape], one tensor per parameter, and sum them over the records."""
    # Of a scalar parameter: [b]. Whatever the passes were made in, what is clipped is float32.
    flat = [g.reshape(len(g), -1).to(torch.promote_types(g.dtype, torch.float32)) for g in gradients]
    # The many small parameters are taken as one: each call costs more than its work.
    small = [f for f in flat if f.shape[1] < _SMALL]
    large = [f for f in flat if f.shape[1] >= _SMALL]
    packed = [torch.cat(small, 1), *large] if small else large
    sums = iter(_summed(packed, clip))
    parts = iter(next(sums).split([f.shape[1] for f in small]) if small else ())
    each = (next(parts if f.shape[1] < _SMALL else sums).to(f) for f in flat)
    return [sum_.view(g.shape[1:]) for sum_, g in zip(each, gradients, strict=True)]


def _summed(flat: Sequence[Tensor], clip: float) -> list[Tensor]:
    """Return the clipped sums [n] of gradients [b, n]."""
    of = norms(flat)
    weights, lost = factors(of, clip), ~bounded(of)
    # Nothing times NaN is NaN: such records are blanked before the product. To ask whether there are any is cheaper,
    # but not where the answer has to be waited for.
    if lost.device.type in _ANSWERS_AT_ONCE and not bool(lost.any()):
        blanked = iter(flat)
    else:
        blanked = (f.masked_fill(lost[:, None], 0) for f in flat)
    return [weights.to(f) @ f for f in blanked]
