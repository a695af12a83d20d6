"""Epsilon of many independent privacy losses: their sum on a grid, by FFT, never below the truth.

Every probability is first multiplied by e^(theta loss) (exponential tilting), with the theta at which Renyi accounting
would read epsilon off. The losses around epsilon, whose probability is about delta, become the most probable ones, so
that the rounding of an FFT, relative to the largest value, is small against delta, be it 1e-14.

Three things are rounded, all upwards: losses between two grid points are shared out to both (see `losses`), what lies
outside of the grid is bounded by Chernoff's inequality, and so is what rounding takes away; both bounds are added to
delta. A large count takes two stages, the second on a coarser grid, so that the number of points stays at
some hundred thousand.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft
from scipy.signal import lfilter

from dpib.privacy.accounting.losses import Array, Losses

_INFLATION = 5e-7  # of epsilon, by the grid
_OUTSIDE = 1e-11  # of the tilted probability
_ROUNDING = 1e-10, 1e-16  # of the tilted probability: in all, and for each run
_ONE_STAGE = 4096  # runs
_MOST_POINTS = 2**20
_TILTS = np.array([-30, -10, -3, -1, -0.3, 0, 0.3, 0.6, 0.9, 1, 1.1, 1.4, 2, 3, 5, 10, 30])
_OWN = 9  # the place in `_TILTS` of theta itself
_LARGEST = 600.0  # of an exponent; what is larger only has to stay larger than delta


@dataclass(frozen=True)
class _Run:
    """Losses, how often they occur, and a bound on log E[e^(t loss)] for every t of theta * `_TILTS`."""

    losses: Losses
    count: int
    moments: Array


@dataclass(frozen=True)
class _Sum:
    """Tilted probabilities [points] of the losses `step` * (`first` + 0, 1, ...); `log_total` undoes the tilting."""

    mass: Array
    first: int
    step: float
    theta: float
    log_total: float
    moments: Array

    @property
    def loss(self) -> Array:
        return np.asarray(self.step * (self.first + np.arange(len(self.mass))), dtype=np.float64)

    def losses(self) -> Losses:
        """Return the same without tilting."""
        kept = self.mass > 0
        loss = self.loss[kept]
        return Losses(loss, np.log(self.mass[kept]) + self.log_total - self.theta * loss)


def epsilon(runs: Sequence[tuple[Losses, int]], delta: float) -> float:
    """Return epsilon at `delta` of all `runs`: independent losses, and how often each occurs."""
    left = delta - sum(count * losses.infinite for losses, count in runs)
    if left <= 0:
        return math.inf
    theta, bound = _renyi(runs, left)
    if bound <= 0:
        return 0.0
    tilts = theta * _TILTS
    staged = [_Run(losses, count, np.array([_log_moment(losses, t) for t in tilts])) for losses, count in runs]
    total = sum(run.count for run in staged)
    fine = _step(bound, theta, total)
    staged = [part for run in staged for part in _staged(run, theta, fine)]
    whole = _compose(staged, theta, _step(bound, theta, sum(run.count for run in staged)), _OUTSIDE)
    # The bound of Renyi accounting itself is safe too, and smaller where a grid of so many points is too coarse.
    return min(bound, max(0.0, _solve(whole, left, _OUTSIDE + _ROUNDING[0] + _ROUNDING[1] * total)))


def _renyi(runs: Sequence[tuple[Losses, int]], delta: float) -> tuple[float, float]:
    """Return theta, an order less 1, and epsilon at that order, the smallest (Canonne, Kamath, Steinke 2020)."""
    largest = max(float(losses.loss.max()) for losses, _ in runs)
    low = min(1e-2, 1 / max(largest, 1e-300))
    thetas = np.geomspace(low, 1e7, math.ceil(5 * math.log10(1e7 / low)))
    bounds = [
        (sum(count * _log_moment(losses, t) for losses, count in runs) + _log_peak(t) - math.log(delta)) / t
        for t in thetas
    ]
    best = int(np.argmin(bounds))
    return float(thetas[best]), float(bounds[best])


def _log_moment(losses: Losses, t: float) -> float:
    exponents = t * losses.loss + losses.log_mass
    top = float(exponents.max())
    return top + math.log(float(np.exp(exponents - top).sum()))


def _log_peak(theta: float) -> float:
    """Return the logarithm of the largest e^(-theta u) (1 - e^-u) for u > 0."""
    return theta * math.log(theta) - (1 + theta) * math.log1p(theta)


def _step(bound: float, theta: float, runs: int) -> float:
    """Return the grid's step: sharing out adds a sixth of its square to a run's variance, and no more than it."""
    room = _INFLATION * bound / runs
    return max(math.sqrt(12 * room / (theta + 1)), room)


def _staged(run: _Run, theta: float, step: float) -> list[_Run]:
    """Return about the root of the count times the sum of that many runs, where the count is large."""
    if run.count <= _ONE_STAGE:
        return [run]
    size = math.isqrt(run.count)
    times, rest = divmod(run.count, size)
    stages = []
    for part, count in ((size, times), (rest, 1)):
        if part:
            found = _compose([replace(run, count=part)], theta, step, _OUTSIDE / times)
            stages.append(_Run(found.losses(), count, found.moments))
    return stages


def _compose(runs: Sequence[_Run], theta: float, step: float, outside: float) -> _Sum:
    """Return the sum of all runs, on a grid that misses at most twice `outside` of its tilted probability."""
    step, low, high, moments = _window(runs, theta, step, outside)
    first = math.floor(low / step) - 1
    size = fft.next_fast_len(math.ceil(high / step) - first + 2, real=True)
    spectrum, log_total = np.ones(size // 2 + 1, dtype=np.complex128), 0.0
    for run in runs:
        mass, log_mass = _on_grid(run.losses, theta, step, size)
        # By logarithms: a power with an integer exponent takes a hundred times as long.
        with np.errstate(divide="ignore", invalid="ignore"):
            spectrum *= np.nan_to_num(np.exp(run.count * np.log(fft.rfft(mass))))
        log_total += run.count * log_mass
    mass = np.maximum(np.roll(fft.irfft(spectrum, size), -first), 0)
    return _Sum(mass, first, step, theta, log_total, moments)


def _window(runs: Sequence[_Run], theta: float, step: float, outside: float) -> tuple[float, float, float, Array]:
    """Return the step, made coarser if need be, the losses between which the sum lies, and bounds on its moments."""
    tilts, count = theta * _TILTS, sum(run.count for run in runs)
    plain = sum((run.count * run.moments for run in runs), np.zeros(len(tilts)))
    while True:
        # Sharing a loss out adds at most this to the logarithm of a moment (Hoeffding's lemma), and takes nothing.
        spread = np.maximum(tilts * (tilts + 1), tilts**2) * step / 8
        moments = plain + count * step * np.minimum(spread, np.abs(tilts))
        others = np.arange(len(tilts)) != _OWN
        ends = (moments - plain[_OWN] - math.log(outside))[others] / (tilts - theta)[others]
        low, high = float(ends[:_OWN].max()), float(ends[_OWN:].min())
        if high - low <= _MOST_POINTS * step:
            return step, low, high, moments
        step *= 1.1 * max(1.0, (high - low) / (_MOST_POINTS * step))


def _on_grid(losses: Losses, theta: float, step: float, size: int) -> tuple[Array, float]:
    """Return tilted probabilities [size], on places modulo `size`, and the logarithm of what they summed up to."""
    below = np.floor(losses.loss / step)
    upward = np.clip(np.expm1(below * step - losses.loss) / math.expm1(-step), 0, 1)
    with np.errstate(divide="ignore"):
        shares = np.concatenate([np.log1p(-upward), np.log(upward)])
    places = np.concatenate([below, below + 1])
    exponents = theta * step * places + np.tile(losses.log_mass, 2) + shares
    top = float(exponents.max())
    tilted = np.exp(exponents - top)
    total = float(tilted.sum())
    mass = np.bincount(np.mod(places, size).astype(np.int64), tilted / total, size)
    return np.asarray(mass, dtype=np.float64), top + math.log(total)


def _solve(whole: _Sum, delta: float, missing: float) -> float:
    """Return where the hockey-stick divergence is `delta`; `missing` of the tilted probability is not in `whole`."""
    undo = whole.log_total - whole.theta * whole.loss
    # The probability of losses beyond every point, and the divergence there: a weighted sum of what is beyond.
    beyond = np.append(np.cumsum((whole.mass * np.exp(np.minimum(undo, _LARGEST)))[:0:-1])[::-1], 0)
    shrink = -math.expm1(-whole.step)
    divergence = lfilter([shrink], [1, shrink - 1], beyond[::-1])[::-1]
    # What is missing could lie where it weighs most.
    slack = missing * np.exp(np.minimum(undo + _log_peak(whole.theta), _LARGEST))
    place = int(np.searchsorted(-(divergence + slack), -delta))
    if place in (0, len(divergence)):
        return float(whole.loss[0]) if place == 0 else math.inf
    # Between two grid points the divergence is linear in e^epsilon.
    excess, most = beyond[place - 1] + slack[place - 1] - delta, beyond[place - 1] - divergence[place]
    return float(whole.loss[place]) + (math.log(excess / most) if 0 < excess < most else 0.0)
