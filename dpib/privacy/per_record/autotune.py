"""Choose a strategy on the very model in use: first whether it is right, then how fast it is.

Everything runs on random images. A strategy that differs from the record loop is never used: Opacus
1.6.0's convolution sampler, for one, is wrong by 18 % on diffusers' U-Nets, silently.
"""

import copy
import importlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpib import seeding
from dpib.errors import UserError
from dpib.privacy.per_record import loop, memory
from dpib.privacy.per_record.base import ClippedSum, RecordLoss, Rows, Unsupported

TOLERANCE = 1e-5
STRATEGIES = ("loop", "grouped", "vmap", "hooks")
"""Names of the modules of this package whose `clipped_sum` can be chosen."""

_RECORDS = 3  # in the equality check
_DRAWS = 3  # per record there; the strategies do not know K
_TIMED_ROWS = 32  # at first; more where that pays
_GROWTH = 4
_GAIN = 0.95  # a larger chunk must take less than this share of the time
_PATIENCE = 1.0  # seconds: no chunk that is expected to take longer is tried
_APPETITE = {"vmap": 4}  # times the memory of a plain backward pass

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """A strategy that was found right, and how many records it takes at a time."""

    name: str
    clipped_sum: ClippedSum
    physical: int


def load(name: str) -> ClippedSum:
    """Return a strategy by name. Modules load when wanted: Opacus alone takes seconds."""
    function: ClippedSum = importlib.import_module(f"dpib.privacy.per_record.{name}").clipped_sum
    return function


def choose(
    model: nn.Module, loss: RecordLoss, probe: Callable[[int], Rows], strategy: str, physical: int | None
) -> Choice:
    """Return `strategy`, or the fastest one for "auto", after comparing it with the record loop.

    How many records are taken at a time is found by timing too: larger chunks fill the processor, until they leave
    its cache.

    Args:
        model: in the state in which training starts.
        loss: of one record.
        probe: returns the draws of that many random images.
        strategy: "auto" or one of `STRATEGIES`.
        physical: records at a time; none: the fastest number of those that fit the free memory.

    Raises:
        UserError: when the strategy asked for is wrong on this model, or cannot run it.
    """
    names = list(STRATEGIES) if strategy == "auto" else [strategy]
    right = []
    for name in names:
        trouble = _trouble(name, model, loss, probe(_RECORDS))
        if trouble is None:
            right.append(name)
        elif strategy != "auto":
            raise UserError(f"gradient strategy {name!r} does not fit this model: {trouble}; use auto or loop")
        else:
            _log.info("gradient strategy %s is out: %s", name, trouble)
    first = max(2, _TIMED_ROWS // loss.multiplicity)
    most = physical or memory.fitting(model, loss, probe(1))
    found: dict[str, tuple[float, int]] = {}
    for name in right:
        if physical is None:
            found[name] = _grown(name, model, loss, probe, first, max(1, most // _APPETITE.get(name, 1)))
        else:
            timed = min(physical, first)
            found[name] = (_seconds(name, model, loss, probe(timed)) / timed if len(right) > 1 else 0.0), physical
    best = min(found, key=found.__getitem__)
    _log.info("gradient strategy %s; seconds per random image, and images at a time: %s", best, found)
    return Choice(best, load(best), found[best][1])


def _grown(
    name: str, model: nn.Module, loss: RecordLoss, probe: Callable[[int], Rows], first: int, most: int
) -> tuple[float, int]:
    """Return the least seconds per record and the chunk that gives them, from `first` records upwards."""
    size = min(first, most)
    seconds = _seconds(name, model, loss, probe(size)) / size
    # The loop takes record by record: its chunks only hold the draws.
    while name != "loop" and (larger := min(_GROWTH * size, most)) > size and larger * seconds < _PATIENCE:
        there = _seconds(name, model, loss, probe(larger)) / larger
        if there > _GAIN * seconds:
            break
        size, seconds = larger, there
    return seconds, size


def _trouble(name: str, model: nn.Module, loss: RecordLoss, rows: Rows) -> str | None:
    """Return why a strategy must not be used on this model, or None."""
    if name == "loop":
        return None
    few = tuple(row[:, :_DRAWS] for row in rows)
    try:
        with _full_precision():
            worst = max(_difference(load(name), m, loss, few) for m in (model, _perturbed(model)))
    except Unsupported as error:
        return str(error)
    return None if worst <= TOLERANCE else f"its sum differs from the record loop's by {worst:.1e}"


def _difference(candidate: ClippedSum, model: nn.Module, loss: RecordLoss, rows: Rows) -> float:
    """Return the largest relative distance to the loop's sum, once with all records clipped, once with some."""
    norms = [
        _norm(loop.clipped_sum(model, loss, tuple(row[i : i + 1] for row in rows), math.inf)) for i in range(_RECORDS)
    ]
    worst = 0.0
    for clip in (min(norms) / 2 or 1.0, sorted(norms)[_RECORDS // 2] or 1.0):
        expected = loop.clipped_sum(model, loss, rows, clip)
        found = candidate(model, loss, rows, clip)
        apart = _norm([f - e for f, e in zip(found, expected, strict=True)])
        # No comparison with NaN holds, so max() would let it through.
        worst = max(worst, apart / (_norm(expected) or 1.0) if math.isfinite(apart) else math.inf)
    return worst


def _norm(parts: list[Tensor]) -> float:
    return float(torch.stack([part.double().norm() for part in parts]).norm())


def _perturbed(model: nn.Module) -> nn.Module:
    """Return a copy with every parameter moved, so that layers initialised to zero hide nothing behind them."""
    moved = copy.deepcopy(model)
    stream = seeding.generator(0, "perturb")
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=stream).to(parameter))
    return moved


def _seconds(name: str, model: nn.Module, loss: RecordLoss, rows: Rows) -> float:
    best = math.inf
    for _ in range(2):
        _wait(rows)
        begun = time.perf_counter()
        load(name)(model, loss, rows, 1.0)
        _wait(rows)
        best = min(best, time.perf_counter() - begun)
    return best


def _wait(rows: Rows) -> None:
    if rows[0].is_cuda:
        torch.cuda.synchronize(rows[0].device)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Switch TF32 off: it differs from float32 by more than any fault that is looked for."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
