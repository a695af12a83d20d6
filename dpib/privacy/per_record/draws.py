"""The noise draws of records: a function of (seed, step, record), whatever the chunk or the rank."""

import torch
from torch import Tensor

from dpib import seeding
from dpib.draws import Draws
from dpib.images import Images
from dpib.privacy.per_record.base import RecordLoss, Rows


def draw(loss: RecordLoss, images: Images, index: Tensor, seed: int, step: int, device: torch.device) -> Rows:
    """Return the K draws of every record of `images` at `index` int64 [b]: tensors [b, K, ...] on `device`.

    Raises:
        ValueError: when the loss draws another number of rows than its multiplicity says.
    """
    x, y, index = (_moved(part, device) for part in (images.x[index], images.y[index], index))
    rows = loss.rows(x, y, Draws(seeding.derive(seed, "rows", step), index))
    for row in rows:
        if tuple(row.shape[:2]) != (len(index), loss.multiplicity):
            raise ValueError(
                f"rows of {len(index)} records with multiplicity {loss.multiplicity} have the shape {list(row.shape)}"
            )
    # A network may write to its input.
    return tuple(row.contiguous() for row in rows)


def _moved(part: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on `device`, without waiting for the copy."""
    return part.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else part.to(device)
