"""As `grouped`, with the records of a chunk as groups of one convolution: one call of the library for each layer."""

from torch import Tensor, nn

from dpib.privacy.per_record.base import RecordLoss, Rows
from dpib.privacy.per_record.grouped import summed
from dpib.privacy.per_record.layers import group_by_record


def clipped_sum(model: nn.Module, loss: RecordLoss, rows: Rows, clip: float) -> list[Tensor]:
    """Return the sum over records of clipped gradients (see `base.ClippedSum`)."""
    return summed(model, loss, rows, clip, group_by_record)
