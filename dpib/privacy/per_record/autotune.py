"""Choose a strategy on the very model in use: first whether it is right, then how fast it is.

Everything runs on made-up images. A strategy that differs from the record loop is never used: Opacus
1.6.0's convolution sampler, for one, is wrong by 18 % on diffusers' U-Nets, silently.
"""

import importlib
import logging
import math
import time
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import nn

from dpib.errors import UserError
from dpib.precision import Precision, lowers, multiplies_faster
from dpib.privacy.per_record import memory
from dpib.privacy.per_record.base import ClippedSum, RecordLoss, Rows
from dpib.privacy.per_record.blame import first_line
from dpib.privacy.per_record.equality import Case, cases
from dpib.privacy.per_record.lowered import Lowered
from dpib.privacy.per_record.probes import Probes

TOLERANCE = 1e-5
STRATEGIES = ("loop", "grouped", "joined", "vmap", "hooks")
"""Names of the modules of this package whose `clipped_sum` can be chosen."""

_TIMED_ROWS = 32  # at first; more where that pays
_GROWTH = 4
_GAIN = 0.95  # a larger chunk must take less than this share of the time
_PATIENCE = 1.0  # seconds: no chunk that is expected to take longer is tried
_APPETITE = {"vmap": 4}  # times the memory of a plain backward pass

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """A strategy that was found right, how many records it takes at a time, and whether it does so in bfloat16."""

    name: str
    clipped_sum: ClippedSum
    physical: int
    lower: bool = False


def load(name: str) -> ClippedSum:
    """Return a strategy by name. Modules load when wanted: Opacus alone takes seconds."""
    function: ClippedSum = importlib.import_module(f"dpib.privacy.per_record.{name}").clipped_sum
    return function


def choose(
    model: nn.Module,
    loss: RecordLoss,
    probes: Probes,
    strategy: str,
    physical: int | None,
    precision: Precision = "fp32",
) -> Choice:
    """Return `strategy`, or the fastest one for "auto", after comparing it with the record loop.

    How many records are taken at a time is found by timing too: larger chunks fill the processor, until they leave
    its cache.

    Args:
        model: in the state in which training starts; the record loop runs it.
        loss: of one record.
        probes: made-up records.
        strategy: "auto" or one of `STRATEGIES`.
        physical: records at a time; none: the fastest number of those that fit the free memory.
        precision: of passes through the network; "auto" times both. Strategies are compared in float32 in any case.

    Raises:
        UserError: when the strategy asked for is wrong on this model, or cannot run it.
    """
    names = list(STRATEGIES) if strategy == "auto" else [strategy]
    troubles = _troubles(names, model, loss, probes)
    most = physical or memory.fitting(model, loss, probes.random(1))
    losses = _losses(loss, precision, probes.device)
    found: dict[tuple[str, bool], tuple[float, int]] = {}
    for name in names:
        for lower, used in losses.items() if troubles[name] is None else ():
            try:
                compared = len(names) * len(losses) > 1
                found[name, lower] = _cost(name, model, used, probes, most, physical, compared)
            except Exception as error:  # noqa: BLE001 - a strategy that raises anything is out
                troubles[name] = first_line(error)
    for name, trouble in troubles.items():
        if trouble is not None:
            if strategy != "auto":
                raise UserError(f"gradient strategy {name!r} does not fit this model: {trouble}; use auto or loop")
            _log.info("gradient strategy %s is out: %s", name, trouble)
    if not found:
        raise UserError(f"no gradient strategy runs this model; loop: {troubles['loop']}")
    name, lower = best = min(found, key=found.__getitem__)
    _log.info("gradient strategy %s, bfloat16: %s; seconds per random image, and images at a time: %s", *best, found)
    if lower:
        apart = next(cases(model, loss, probes)).difference(load(name), model, losses[True])
        _log.info("gradients of random images in bfloat16 differ from those in float32 by %.1e of their norm", apart)
    return Choice(name, load(name), found[best][1], lower)


def _losses(loss: RecordLoss, precision: Precision, device: torch.device) -> dict[bool, RecordLoss]:
    """Return what is to be timed: the loss in float32 (False), in bfloat16 (True), or both."""
    both: dict[bool, RecordLoss] = {False: loss, True: Lowered(loss)}
    if precision == "auto" and multiplies_faster(device):
        return both
    lower = lowers(precision, device)
    return {lower: both[lower]}


def _troubles(names: list[str], model: nn.Module, loss: RecordLoss, probes: Probes) -> dict[str, str | None]:
    """Return for every strategy why it must not be used on this model, or None."""
    troubles: dict[str, str | None] = dict.fromkeys(names)
    with closing(cases(model, loss, probes)) as found:
        while left := [name for name in names if name != "loop" and troubles[name] is None]:
            case = next(found, None)
            if case is None:
                break
            for name in left:
                troubles[name] = _trouble(name, model, loss, case)
    return troubles


def _trouble(name: str, model: nn.Module, loss: RecordLoss, case: Case) -> str | None:
    """Return what is wrong with a strategy's sum for one case, or None."""
    try:
        apart = case.difference(load(name), model, loss)
    except Exception as error:  # noqa: BLE001 - a strategy that raises anything is out
        return first_line(error)
    return None if apart <= TOLERANCE else f"its sum differs from the record loop's by {apart:.1e}"


def _cost(
    name: str, model: nn.Module, loss: RecordLoss, probes: Probes, most: int, physical: int | None, compared: bool
) -> tuple[float, int]:
    """Return the seconds per record and the records at a time; with `physical` given time only what is `compared`."""
    first = max(2, _TIMED_ROWS // loss.multiplicity)
    if physical is None:
        return _grown(name, model, loss, probes, first, max(1, most // _APPETITE.get(name, 1)))
    timed = min(physical, first)
    return (_seconds(name, model, loss, probes.random(timed)) / timed if compared else 0.0), physical


def _grown(name: str, model: nn.Module, loss: RecordLoss, probes: Probes, first: int, most: int) -> tuple[float, int]:
    """Return the least seconds per record and the chunk that gives them, from `first` records upwards."""
    size = min(first, most)
    seconds = _seconds(name, model, loss, probes.random(size)) / size
    # The loop takes record by record: its chunks only hold the draws.
    while name != "loop" and (larger := min(_GROWTH * size, most)) > size and larger * seconds < _PATIENCE:
        there = _seconds(name, model, loss, probes.random(larger)) / larger
        if there > _GAIN * seconds:
            break
        size, seconds = larger, there
    return seconds, size


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
