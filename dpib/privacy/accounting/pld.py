"""Privacy loss distributions (dp_accounting): tight, and never below the truth.

Koskela, Jalko, Honkela: Computing tight differential privacy guarantees using FFT, AISTATS 2020;
Doroshenko, Ghazi, Kamath, Kumar, Manurangsi: Connect the dots, PoPETs 2022.
"""

import math
from collections.abc import Sequence

import dp_accounting
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution as pld

from dpib.privacy.accounting.terms import distance, pure_epsilon
from dpib.privacy.events import Event

# Zero-out changes the sum of contributions exactly as removing the record does, so PLD's add/remove is its
# relation. Under replace-one PLD itself doubles a Gaussian's sensitivity: nothing else may.
_RELATIONS = {
    "zero_out": NeighboringRelation.ADD_OR_REMOVE_ONE,
    "replace_one": NeighboringRelation.REPLACE_ONE,
}
# Pessimistic discretisation: 1e-4 over-reports epsilon 1 by less than 1e-4 (1e-2 would by 0.26).
_INTERVAL = 1e-4
_MOST_POINTS = 1_000_000


def carries(event: Event) -> bool:
    """Return whether there is a privacy loss distribution for this event."""
    return event.kind in ("gaussian", "laplace", "noisy_max", "pure")


def epsilon(events: Sequence[Event], delta: float) -> float:
    """Return epsilon at `delta` for events that all touch the same records, every one of which it `carries`."""
    interval = _interval(events)
    total = pld.identity(value_discretization_interval=interval)
    plain = [event for event in events if event.kind == "gaussian" and event.rate == 1]
    if plain:
        # Gaussians that see every record compose to one Gaussian, exactly.
        total = total.compose(pld.from_gaussian_mechanism(1 / mu(plain), value_discretization_interval=interval))
    for event in events:
        if event not in plain:
            total = total.compose(_single(event, interval).self_compose(event.count))
    return float(total.get_epsilon_for_delta(delta))


def mu(events: Sequence[Event]) -> float:
    """Return distance over sigma of the one Gaussian mechanism that equals a composition of unsampled ones."""
    return math.sqrt(sum(e.count * (distance(e) / e.sigma) ** 2 for e in events if e.sigma is not None))


def exact_gaussian(events: Sequence[Event], delta: float) -> float:
    """Return epsilon of unsampled Gaussians in closed form (Balle and Wang 2018)."""
    return float(dp_accounting.get_epsilon_gaussian(1 / mu(events), delta))


def _interval(events: Sequence[Event]) -> float:
    """Return the discretisation: coarser where hardly any noise makes losses too large for a fine one."""
    return max(_INTERVAL, max(_largest_loss(event) for event in events) / _MOST_POINTS)


def _largest_loss(event: Event) -> float:
    """Return about the largest loss of one run; five times that, to be coarser, where a truncated batch has two parts.

    The part in which a record displaces another is unlikely, and its losses are the larger: at little noise
    it would take most of the time.
    """
    if event.sigma is not None and event.cap is not None:
        return 5 * (8 / event.sigma**2 + 40 / event.sigma)
    if event.sigma is not None:
        return 2 / event.sigma**2 + 20 / event.sigma
    return (pure_epsilon(event) or 0.0) / event.count


def _single(event: Event, interval: float) -> pld.PrivacyLossDistribution:
    if event.cap is not None:
        return pld.from_truncated_subsampled_gaussian_mechanism(
            dataset_size=event.n,
            sampling_probability=event.rate,
            truncated_batch_size=event.cap,
            noise_multiplier=event.sigma,
            value_discretization_interval=interval,
            neighboring_relation=_RELATIONS[event.relation],
        )
    if event.kind == "gaussian":
        return pld.from_gaussian_mechanism(
            event.sigma,
            value_discretization_interval=interval,
            sampling_prob=event.rate,
            neighboring_relation=_RELATIONS[event.relation],
        )
    if event.kind == "laplace":
        return pld.from_laplace_mechanism(
            event.scale, sensitivity=distance(event), value_discretization_interval=interval
        )
    # Every epsilon-DP mechanism is dominated by randomised response with the same epsilon.
    assert event.epsilon is not None
    return pld.from_randomized_response(2 / (1 + math.exp(event.epsilon)), 2, value_discretization_interval=interval)
