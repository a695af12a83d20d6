"""Renyi differential privacy (Mironov 2017): looser than privacy loss distributions, but carries more.

The curves come from dp_accounting where it has them. Two are added: Poisson sampling under replace-one by
quadrature over the pair that dominates it, and truncated Poisson sampling by the mixture of `losses`.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import absl.logging
import dp_accounting
import numpy as np
from dp_accounting import NeighboringRelation
from dp_accounting.rdp import RdpAccountant
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS, compute_delta, compute_epsilon

from dpib.privacy.accounting.losses import displaced
from dpib.privacy.accounting.terms import distance, pure_epsilon
from dpib.privacy.events import Event
from dpib.privacy.stopping import Stopping

# Beyond the usual orders: low ones for an epsilon of hundreds, high ones for one far below 1.
ORDERS = np.array(sorted([*DEFAULT_RDP_ORDERS, 1.02, 1.05, 2048, 8192]), dtype=np.float64)
_ROUNDING = 1e-15  # of a moment, for each order; ten billion runs of nearly nothing must not come out as nothing
_LARGEST_BY_QUADRATURE = 256.0
_LEAST_BY_QUADRATURE = 0.05


def epsilon(events: Sequence[Event], delta: float) -> float:
    """Return epsilon at `delta` for events that all touch the same records."""
    with _quiet():
        return float(compute_epsilon(ORDERS, sum(curve(event) for event in events), delta)[0])


def curve(event: Event) -> np.ndarray:
    """Return the Renyi divergence of all runs of an event at `ORDERS`; infinite where nothing is known."""
    return event.count * (_once(event) + _ROUNDING * ORDERS / (ORDERS - 1))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep dp_accounting from printing the orders that it leaves out, which is safe and says nothing."""
    before = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(before)


def _once(event: Event) -> np.ndarray:
    if event.stopping is not None:
        selected = _selected(event.stopping, np.sum([curve(e) for e in event.base], axis=0))
        pure = pure_epsilon(event)
        return selected if pure is None else np.minimum(selected, _pure(pure / event.count))
    if event.epsilon is not None:
        return _pure(event.epsilon)
    if event.scale is not None:
        return _library(dp_accounting.LaplaceDpEvent(event.scale / distance(event)))
    assert event.sigma is not None
    sigma = event.sigma / distance(event)
    if event.rate == 1:
        return ORDERS / (2 * sigma**2)
    if event.kind == "gaussian_wor":
        return _without_replacement(event.rate, sigma)
    if event.cap is not None:
        return _truncated(event)
    return _poisson_swapped(event.rate, event.sigma) if distance(event) == 2 else _poisson(event.rate, event.sigma)


def _library(event: dp_accounting.DpEvent) -> np.ndarray:
    return np.asarray(RdpAccountant(ORDERS).compose(event).rdp)


@lru_cache(maxsize=256)
def _poisson(rate: float, sigma: float) -> np.ndarray:
    with _quiet():
        return _library(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma)))


@lru_cache(maxsize=256)
def _without_replacement(rate: float, sigma: float) -> np.ndarray:
    """Return the bound of Wang, Balle, Kasiviswanathan (AISTATS 2019, theorem 27) for a share `rate`.

    `sigma` is in units of the distance between two sets that differ in one record.
    """
    # dp_accounting takes the share as two counts; over 1e12 it is rounded up by nothing that matters.
    # Noise that is boundless leaves it a logarithm of zero; less noise costs more.
    gaussian = dp_accounting.GaussianDpEvent(min(sigma, 1e5))
    sampled = dp_accounting.SampledWithoutReplacementDpEvent(10**12, math.ceil(rate * 10**12), gaussian)
    # Order 256 alone would take longer than all others: its bound is a sum of differences of every degree.
    orders = ORDERS[ORDERS != 256]
    found = RdpAccountant(orders, NeighboringRelation.REPLACE_ONE).compose(sampled).rdp
    return np.insert(np.asarray(found), np.searchsorted(orders, 256), np.inf)


@lru_cache(maxsize=256)
def _poisson_swapped(rate: float, sigma: float) -> np.ndarray:
    """Return the divergence of (1-q) N(0, s^2) + q N(1, s^2) from the same with N(-1, s^2), by quadrature.

    This pair dominates Poisson sampling under replace-one: the record's contribution turns into its
    opposite. The integrands are analytic and decay like Gaussians, so the trapezoid rule converges
    geometrically; orders above 256 are left out.
    """
    if sigma < _LEAST_BY_QUADRATURE:
        return 2 * ORDERS / sigma**2  # without sampling; the grid would be too fine
    orders = ORDERS[ORDERS <= _LARGEST_BY_QUADRATURE]
    # P^a Q^(1-a) peaks between -1 and 2a-1; its poles keep a distance of pi s^2 / 2 from the real axis.
    step = min(sigma / 8, sigma**2 / 4)
    grid = np.arange(-1 - 12 * sigma, 2 * orders.max() + 12 * sigma, step)
    base = np.log1p(-rate) - grid**2 / (2 * sigma**2)
    p = np.logaddexp(base, math.log(rate) - (grid - 1) ** 2 / (2 * sigma**2))
    q = np.logaddexp(base, math.log(rate) - (grid + 1) ** 2 / (2 * sigma**2))
    constant = math.log(step) - math.log(2 * math.pi * sigma**2) / 2
    found = [(_log_sum(a * p + (1 - a) * q) + constant) / (a - 1) for a in orders]
    return np.concatenate([np.maximum(found, 0), np.full(len(ORDERS) - len(orders), np.inf)])


def _log_sum(exponents: np.ndarray) -> float:
    top = float(exponents.max())
    return top + math.log(float(np.exp(exponents[exponents > top - 50] - top).sum()))


def _truncated(event: Event) -> np.ndarray:
    """Return the curve of a truncated Poisson sample: with the odds of truncation, one record moves two.

    The components and their weights are those of its privacy loss distribution.
    """
    assert event.sigma is not None
    plain = (_poisson if distance(event) == 1 else _poisson_swapped)(event.rate, event.sigma)
    odds, inside = displaced(event)
    if odds == 0 or inside == 0:
        return plain
    twice = _poisson_swapped(inside, event.sigma / 2)
    weighted = [math.log1p(-odds) + (ORDERS - 1) * plain, math.log(odds) + (ORDERS - 1) * twice]
    return np.asarray(np.logaddexp(*weighted) / (ORDERS - 1))


def _pure(epsilon: float) -> np.ndarray:
    """Return the curve of randomised response, which dominates every epsilon-DP mechanism."""
    truth = -math.log1p(math.exp(-epsilon))  # log probability of the true answer
    lie = truth - epsilon
    a = ORDERS
    return np.logaddexp(a * truth + (1 - a) * lie, a * lie + (1 - a) * truth) / (a - 1)


def _selected(stopping: Stopping, trial: np.ndarray) -> np.ndarray:
    """Return the curve of the best of a random number of trials, each with the curve `trial`.

    Papernot and Steinke 2022, theorems 2 (truncated negative binomial) and 6 (Poisson).
    """
    a, mean = ORDERS, stopping.mean
    if stopping.eta is None or stopping.gamma is None:
        delta = [compute_delta(a, trial, math.log1p(1 / (order - 1)))[0] for order in a]
        # For a mean below 1 the theorem gives something back; nothing is taken.
        found = trial + mean * np.asarray(delta) + max(math.log(mean), 0.0) / (a - 1)
    else:
        once = np.min((1 - 1 / a) * trial - math.log(stopping.gamma) / a)
        found = trial + (1 + stopping.eta) * once + math.log(mean) / (a - 1)
    # A Renyi divergence never falls with its order, so what bounds a higher one bounds this one.
    return np.minimum.accumulate(np.maximum(found, 0)[::-1])[::-1]
