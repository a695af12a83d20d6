"""Privacy loss random variables (Opacus): numerical composition with an error bound on both sides.

Gopi, Lee, Wutschitz: Numerical Composition of Differential Privacy, NeurIPS 2021.
"""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dpib.privacy.accounting import rdp
from dpib.privacy.accounting.terms import distance, refuse
from dpib.privacy.events import Event

_LEAST_DELTA = 1e-10  # its FFT works on probabilities as they are, to 1e-16
_MOST_POINTS = 4e6


class Interval(NamedTuple):
    """What epsilon certainly lies between, and the estimate in it."""

    lower: float
    estimate: float
    upper: float


def interval(events: Sequence[Event], delta: float, error: float = 0.01) -> Interval:
    """Return the interval of epsilon at `delta`; `error` (absolute) is Opacus' own default.

    Raises:
        BudgetError: for an event that this accountant cannot carry.
    """
    # Opacus loads torch and more: seconds that nobody should pay who does not ask for this accountant.
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(*_gaussian(event), event.count) for event in events]
    if delta < _LEAST_DELTA:
        raise refuse("prv", events[0], f"its rounding is not small against a delta below {_LEAST_DELTA:g}")
    if not _points(events, delta, error) <= _MOST_POINTS:
        raise refuse("prv", events[0], "with so many runs, or so little noise, it would take too much memory and time")
    # A rate of 1 makes Opacus take the logarithm of 0, which it handles; and it warns that the RDP by which it
    # bounds the domain is loose, which costs time and no correctness.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            composed = accountant._get_dprv(eps_error=error, delta_error=delta / 1000)
            return Interval(*map(float, composed.compute_epsilon(delta, delta / 1000, error)))
        except (RuntimeError, ValueError) as failure:
            raise refuse("prv", events[0], f"Opacus says: {failure}") from None


def _points(events: Sequence[Event], delta: float, error: float) -> float:
    """Return about how many points Opacus would lay over the losses."""
    total = sum(event.count for event in events)
    # The domain of remark 5.6 of the paper, by Renyi accounting as there.
    domain = rdp.epsilon(events, delta / 8000 / total) + 3
    return 2 * domain / error * math.sqrt(total * math.log(12000 / delta) / 2)


def _gaussian(event: Event) -> tuple[float, float]:
    if event.kind != "gaussian":
        raise refuse("prv", event, "it composes Poisson-sampled Gaussians only")
    if event.cap is not None:
        raise refuse("prv", event, "it knows no truncated batches")
    if event.relation == "replace_one" and event.rate < 1:
        raise refuse("prv", event, "it has no Poisson sampling under replace_one")
    assert event.sigma is not None
    return event.sigma / distance(event), event.rate
