"""Tests that raise a false alarm about once in a million: an audit has dozens of them and runs in CI."""

import math

import numpy as np
from scipy import stats
from torch import Tensor

Z = 5.0
"""Deviations in standard errors beyond this fail; a normal deviate lies there with probability 6e-7."""
Z_OF_MANY = 6.5
"""The same for the largest of some hundred deviates."""
ALPHA = 1e-6
"""P-values below this fail."""


def scale_deviation(draws: Tensor) -> float:
    """Return how many standard errors the mean square of standard normal draws is away from 1."""
    flat = draws.double().flatten()
    return float((flat.square().mean() - 1) / math.sqrt(2 / len(flat)))


def mean_deviation(draws: Tensor) -> float:
    """Return how many standard errors the mean of standard normal draws is away from 0."""
    flat = draws.double().flatten()
    return float(flat.mean() * math.sqrt(len(flat)))


def normality(draws: Tensor, most: int = 20_000) -> float:
    """Return the Kolmogorov-Smirnov p-value of draws against the standard normal."""
    return float(stats.kstest(draws.double().flatten()[:most].numpy(), "norm").pvalue)


def correlation_deviation(a: Tensor, b: Tensor) -> float:
    """Return how many standard errors the correlation of two independent series is away from 0."""
    a, b = a.double().flatten(), b.double().flatten()
    a, b = a - a.mean(), b - b.mean()
    length = float(a.norm() * b.norm())
    return float(a @ b) / length * math.sqrt(len(a)) if length else math.inf


def weakest_row(draws: Tensor) -> float:
    """Return the least p-value, corrected for their number, of the rows [rows, columns] having variance 1."""
    rows, columns = draws.shape
    squares = draws.double().square().sum(1).numpy()
    two_sided = 2 * np.minimum(stats.chi2.cdf(squares, columns), stats.chi2.sf(squares, columns))
    return float(min(1.0, rows * two_sided.min()))


def rate_deviation(hits: int, trials: int, rate: float) -> float:
    """Return how many standard errors the share of hits is away from `rate`."""
    if rate == 1.0:
        return 0.0 if hits == trials else math.inf
    return (hits - trials * rate) / math.sqrt(trials * rate * (1 - rate))


def dispersion_deviation(counts: Tensor, trials: int, rate: float) -> float:
    """Return how far the spread of binomial counts is from the expected one, in standard errors.

    A sampler that shuffles makes every count the same, one that repeats itself spreads them too far.
    """
    if rate == 1.0:
        return 0.0
    counts = counts.double()
    variance = trials * rate * (1 - rate)
    ratio = float((counts - trials * rate).square().mean()) / variance
    # The fourth moment of the binomial: its excess kurtosis widens the spread of the squares.
    spread = math.sqrt((2 + (1 - 6 * rate * (1 - rate)) / variance) / len(counts))
    return (ratio - 1) / spread


def epsilon_lower_bound(here: np.ndarray, there: np.ndarray, delta: float, confidence: float = 0.999) -> float:
    """Return an epsilon that two samples of a scalar output on neighbouring data refute from below.

    The threshold of the test is chosen on the first half of both samples; Clopper-Pearson bounds on the other
    half turn its two error rates into epsilon >= log((1 - delta - FNR) / FPR) (Kairouz et al. 2015; Nasr et al. 2021).
    """
    half = len(here) // 2
    grid = np.quantile(np.concatenate([here[:half], there[:half]]), np.linspace(0.005, 0.995, 199))
    chosen = max(grid, key=lambda t: _bound(here[:half], there[:half], t, delta, confidence))
    return max(0.0, _bound(here[half:], there[half:], float(chosen), delta, confidence))


def _bound(here: np.ndarray, there: np.ndarray, threshold: float, delta: float, confidence: float) -> float:
    alpha = (1 - confidence) / 2
    above_here, above_there = int((here > threshold).sum()), int((there > threshold).sum())
    power = _clopper_pearson(above_here, len(here), alpha)[0]
    false = _clopper_pearson(above_there, len(there), alpha)[1]
    return math.log((power - delta) / false) if power > delta else -math.inf


def _clopper_pearson(hits: int, trials: int, alpha: float) -> tuple[float, float]:
    low = float(stats.beta.ppf(alpha, hits, trials - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(1 - alpha, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high
