"""Sums of the record loop on made-up records, which any other strategy must reproduce on the very model in use."""

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpib import seeding
from dpib.privacy.per_record import loop
from dpib.privacy.per_record.base import ClippedSum, RecordLoss, Rows
from dpib.privacy.per_record.probes import Probes, fewer

_RECORDS = 3  # of the random batch
_DRAWS = 3  # per record there; the strategies do not know K
_LABELS = 16  # records at a time, of every label once


@dataclass(frozen=True)
class Case:
    """Records, a clip, and the loop's sum for them."""

    rows: Rows
    clip: float
    expected: list[Tensor]

    def difference(self, candidate: ClippedSum, model: nn.Module, loss: RecordLoss) -> float:
        """Return the relative distance of a strategy's sum; infinity where it is not finite."""
        found = candidate(model, loss, _copied(self.rows), self.clip)
        apart = _norm([f - e for f, e in zip(found, self.expected, strict=True)])
        return apart / (_norm(self.expected) or 1.0) if math.isfinite(apart) else math.inf


def cases(model: nn.Module, loss: RecordLoss, probes: Probes) -> Generator[Case, None, None]:
    """Yield the cases one by one, without TF32; the model is left as found, but not between them.

    First on the model as it is, then with every parameter moved, so that layers initialised to zero hide nothing
    behind them: random records, structured ones, and every label.
    """
    random = fewer(probes.random(_RECORDS), _DRAWS)
    with _full_precision():
        yield from _cases(model, loss, random)
        with _perturbed(model):
            yield from _cases(model, loss, random)
            for rows in probes.structured():
                yield from _cases(model, loss, fewer(rows, _DRAWS), some=False)
            for rows in probes.labels(_LABELS):
                yield from _cases(model, loss, fewer(rows, 1), some=False)


def _cases(model: nn.Module, loss: RecordLoss, rows: Rows, some: bool = True) -> Iterator[Case]:
    """Yield a case with all records clipped, and one with `some` of them."""
    records = len(rows[0])
    norms = sorted(
        _norm(loop.clipped_sum(model, loss, _copied(tuple(row[i : i + 1] for row in rows)), math.inf))
        for i in range(records)
    )
    for clip in (norms[0] / 2 or 1.0, norms[records // 2] or 1.0)[: 1 + some]:
        yield Case(rows, clip, loop.clipped_sum(model, loss, _copied(rows), clip))


def _copied(rows: Rows) -> Rows:
    """Return a copy: a model may write to its input."""
    return tuple(row.clone() for row in rows)


def _norm(parts: list[Tensor]) -> float:
    return float(torch.stack([part.double().norm() for part in parts]).norm())


@contextmanager
def _perturbed(model: nn.Module) -> Iterator[None]:
    """Move every parameter inside the block."""
    stream = seeding.generator(0, "perturb")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    try:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=stream).to(parameter))
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), before, strict=True):
                parameter.copy_(value)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Switch TF32 off: it differs from float32 by more than any fault that is looked for."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
