"""Privacy loss distributions: tight, and never below the truth.

Koskela, Jalko, Honkela: Computing tight differential privacy guarantees using FFT, AISTATS 2020.
"""

import math
from collections.abc import Sequence

import dp_accounting
import numpy as np

from dpib.privacy.accounting import composition, losses
from dpib.privacy.accounting.losses import Losses
from dpib.privacy.accounting.terms import distance
from dpib.privacy.events import Event

_BINOMIAL = 10**8  # runs of one pure mechanism, summed up by the binomial law


def carries(event: Event) -> bool:
    """Return whether there is a privacy loss distribution for this event."""
    return event.kind in ("gaussian", "laplace", "noisy_max", "pure")


def epsilon(events: Sequence[Event], delta: float) -> float:
    """Return epsilon at `delta` for events that all touch the same records, every one of which it `carries`."""
    reach = losses.reach(delta, sum(event.count for event in events))
    plain = [event for event in events if event.kind == "gaussian" and event.rate == 1]
    runs = [_runs(event, reach) for event in events if event not in plain]
    if plain:
        # Gaussians that see every record compose to one Gaussian, exactly.
        runs.append((losses.gaussian(1.0, 1 / mu(plain), reach), 1))
    # A record taken away, and one added: the last of `both` is the first where they do not differ.
    return max(composition.epsilon([(both[way], count) for both, count in runs], delta) for way in _ways(runs))


def _ways(runs: Sequence[tuple[tuple[Losses, ...], int]]) -> tuple[int, ...]:
    return (0, -1) if any(len(both) == 2 for both, _ in runs) else (0,)


def _runs(event: Event, reach: float) -> tuple[tuple[Losses, ...], int]:
    if event.epsilon is not None and event.count <= _BINOMIAL:
        return (losses.pure(event.epsilon, event.count),), 1
    return losses.of(event, reach), event.count


def mu(events: Sequence[Event]) -> float:
    """Return distance over sigma of the one Gaussian mechanism that equals a composition of unsampled ones."""
    return math.sqrt(sum(e.count * (distance(e) / e.sigma) ** 2 for e in events if e.sigma is not None))


def exact_gaussian(events: Sequence[Event], delta: float) -> float:
    """Return epsilon of unsampled Gaussians in closed form (Balle and Wang 2018)."""
    with np.errstate(divide="ignore"):  # of the logarithm of a probability that is 0
        return float(dp_accounting.get_epsilon_gaussian(1 / mu(events), delta))
