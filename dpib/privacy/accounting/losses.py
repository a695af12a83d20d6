"""How much one run of a mechanism tells about one record: its privacy loss, as weighted points.

The loss is log P/Q of the output, with or without the record, under P. Where it is spread between two points it is
shared out between them so that its probability stays what it was under both P and Q: that makes privacy look worse
and never better (Doroshenko, Ghazi, Kamath, Kumar, Manurangsi: Connect the dots, PoPETs 2022).
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri_exp
from scipy.stats import binom

from dpib.privacy.accounting.terms import distance
from dpib.privacy.events import Event

Array: TypeAlias = npt.NDArray[np.float64]

_BEYOND = 1e-34  # the probability of what is 13 standard deviations away, or more
_CELLS = 4096  # of an output within `reach` of a mode: each half a hundredth of a standard deviation
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)


class Losses(NamedTuple):
    """Points on the line of privacy losses.

    `loss` and `log_mass`, the logarithm of its probability, are [points]; `infinite` is the probability of all that
    is left out, which counts as an infinite loss.
    """

    loss: Array
    log_mass: Array
    infinite: float = 0.0


def reach(delta: float, runs: int) -> float:
    """Return beyond how many standard deviations `runs` Gaussian draws lie with a millionth of `delta`, or less."""
    return -float(ndtri_exp(math.log(delta) - math.log(runs) - 16))


def of(event: Event, reach: float) -> tuple[Losses, ...]:
    """Return the losses of one run, in each direction: a record taken away, and one added where that differs.

    Args:
        event: of a kind that has them: gaussian, laplace, noisy_max or pure.
        reach: standard deviations of a Gaussian to look at.
    """
    if event.scale is not None:
        return (_laplace(event.scale / distance(event)),)
    if event.epsilon is not None:
        return (pure(event.epsilon, 1),)
    assert event.sigma is not None
    plain = gaussian(event.rate, event.sigma, reach, swapped=distance(event) == 2)
    if event.cap is None:
        return plain
    odds, inside = displaced(event)
    if odds == 0 or inside == 0:
        return plain
    (twice,) = gaussian(inside, event.sigma / 2, reach, swapped=True)
    return tuple(_mixture(one, twice, odds) for one in plain)


def displaced(event: Event) -> tuple[float, float]:
    """Return the odds that a truncated batch is full for a record in it, and those of that record to be in it then.

    Where the batch is full the record displaces another one (Ganesh 2025, arXiv 2508.15089).
    """
    assert event.cap is not None
    odds = float(binom.sf(event.cap - 1, event.n - 1, event.rate))
    if odds == 0:
        return 0.0, 0.0
    return odds, float(binom.sf(event.cap, event.n, event.rate)) * event.cap / odds / event.n


def gaussian(rate: float, sigma: float, reach: float, swapped: bool = False) -> tuple[Losses, ...]:
    """Return the losses of a Gaussian that a record of norm 1 reaches with probability `rate`.

    `swapped`: where the record is absent its opposite stands in its place.
    """

    def log_ratio(x: Array, mode: float) -> Array:
        return _log_ratio(rate, (2 * mode * x - 1) / (2 * sigma**2)) if mode else np.zeros_like(x)

    def log_density(x: Array, mode: float) -> Array:
        # Not by the ratio: where there is hardly any noise two huge numbers would cancel.
        parts = [-(((x - at) / sigma) ** 2) / 2 for at in (0.0, mode)]
        with np.errstate(divide="ignore"):
            mixed = np.logaddexp(parts[0] + np.log1p(-rate), parts[1] + math.log(rate)) if mode else parts[0]
        return mixed - math.log(sigma * math.sqrt(2 * math.pi))

    gone = -1.0 if swapped else 0.0
    modes = (-1.0, 0.0, 1.0) if swapped else (0.0, 1.0)
    around = np.linspace(-reach, reach, _CELLS + 1) * sigma
    x = np.unique(np.concatenate([mode + around for mode in modes]))
    beyond = 2 * len(modes) * float(ndtr(-reach))
    taken = _shared(x, lambda x: log_ratio(x, 1) - log_ratio(x, gone), lambda x: log_density(x, 1), beyond)
    if swapped or rate == 1:
        return (taken,)
    return taken, _shared(x, lambda x: -log_ratio(x, 1), lambda x: log_density(x, 0), beyond)


def pure(epsilon: float, runs: int) -> Losses:
    """Return the losses of `runs` runs of randomised response, which dominates every epsilon-DP mechanism."""
    truth = 1 / (1 + math.exp(-epsilon))
    width = 40 + 13 * math.sqrt(runs * truth * (1 - truth))
    true = np.arange(max(0, math.floor(runs * truth - width)), min(runs, math.ceil(runs * truth + width)) + 1)
    log_mass = np.asarray(binom.logpmf(true, runs, truth))
    kept = np.isfinite(log_mass)
    return Losses(
        np.asarray(epsilon * (2.0 * true[kept] - runs), dtype=np.float64), log_mass[kept], _BEYOND if runs > 1 else 0.0
    )


def _laplace(scale: float) -> Losses:
    """Return the losses of Laplace noise that a record moves by 1; both directions are alike."""
    x = np.linspace(0, min(1.0, 80 * scale), _CELLS + 1)
    between = _shared(x, lambda x: (1 - 2 * x) / scale, lambda x: -x / scale - math.log(2 * scale), _BEYOND)
    ends = np.array([1 / scale, -1 / scale])
    log_ends = np.array([-math.log(2), -math.log(2) - 1 / scale])
    return Losses(np.append(between.loss, ends), np.append(between.log_mass, log_ends), between.infinite)


def _shared(x: Array, loss: Callable[[Array], Array], log_density: Callable[[Array], Array], infinite: float) -> Losses:
    """Return the losses of outputs between neighbours of `x` [points], shared out to the losses at both."""
    at = loss(x)
    low, high = np.minimum(at[:-1], at[1:]), np.maximum(at[:-1], at[1:])
    half = np.diff(x) / 2
    inside = x[:-1] + half * (1 + _NODES[:, None])
    mass = np.exp(log_density(inside)) * half * _WEIGHTS[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        upward = np.nan_to_num(np.expm1(low - loss(inside)) / np.expm1(low - high), nan=1.0)
    upper = (mass * np.clip(upward, 0, 1)).sum(0)
    loss_, mass_ = np.concatenate([low, high]), np.concatenate([mass.sum(0) - upper, upper])
    return Losses(loss_[mass_ > 0], np.log(mass_[mass_ > 0]), infinite)


def _log_ratio(rate: float, exponent: Array) -> Array:
    """Return log(1 - rate + rate e^exponent), precise for a tiny rate and for a huge exponent."""
    if rate == 1:
        return exponent
    small = np.log1p(rate * np.expm1(np.minimum(exponent, 30)))
    return np.where(exponent < 30, small, np.logaddexp(math.log1p(-rate), math.log(rate) + exponent))


def _mixture(one: Losses, other: Losses, weight: float) -> Losses:
    """Return the losses of `other` with probability `weight`, and of `one` otherwise."""
    log_mass = [one.log_mass + math.log1p(-weight) if weight < 1 else one.log_mass - np.inf]
    log_mass.append(other.log_mass + math.log(weight))
    loss, log_mass_ = np.concatenate([one.loss, other.loss]), np.concatenate(log_mass)
    return Losses(loss[np.isfinite(log_mass_)], log_mass_[np.isfinite(log_mass_)], one.infinite + other.infinite)
