"""The noise draws of records: a function of (seed, step, record), whatever the chunk or the rank."""

import torch
from torch import Tensor

from dpib import seeding
from dpib.images import Images
from dpib.privacy.per_record.base import RecordLoss, Rows


def draw(loss: RecordLoss, images: Images, index: Tensor, seed: int, step: int, device: torch.device) -> Rows:
    """Return the K draws of every record of `images` at `index` int64 [b]: tensors [b, K, ...] on `device`.

    Raises:
        ValueError: when the loss draws another number of rows than its multiplicity says.
    """
    records = []
    for position in index.tolist():
        one = images.take(slice(position, position + 1))
        rows = loss.rows(one.x, one.y, seeding.generator(seed, "rows", step, position))
        if any(len(row) != loss.multiplicity for row in rows):
            raise ValueError(f"rows of a record: {[len(r) for r in rows]}, the multiplicity is {loss.multiplicity}")
        records.append(rows)
    return tuple(torch.stack(parts).to(device) for parts in zip(*records, strict=True))


def probe(loss: RecordLoss, shape: tuple[int, int, int], classes: int, count: int, device: torch.device) -> Rows:
    """Return the draws of `count` random images: right in shape, and nothing to do with any data."""
    stream = seeding.generator(0, "probe")
    x = torch.randint(0, 256, (count, *shape), generator=stream, dtype=torch.uint8)
    y = torch.randint(0, classes, (count,), generator=stream)
    return draw(loss, Images(x, y), torch.arange(count), 0, 0, device)
