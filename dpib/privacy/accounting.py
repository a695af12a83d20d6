"""Epsilon of composed events: closed form where there is one, otherwise dp_accounting's PLD.

Within a scope, events compose; over scopes, and over partitions of a scope, records are disjoint by
public position, so the total is the maximum (parallel composition, McSherry 2009).
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import dp_accounting
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution as pld

from dpib.privacy.events import Event, Relation

# Zero-out changes the sum of contributions exactly as removing the record does, so PLD's add/remove
# is its relation. Under replace-one PLD itself doubles a Gaussian's sensitivity: nothing else may.
_RELATIONS = {
    "zero_out": NeighboringRelation.ADD_OR_REMOVE_ONE,
    "replace_one": NeighboringRelation.REPLACE_ONE,
}
# Pessimistic discretisation: 1e-4 over-reports epsilon 1 by less than 1e-4 (1e-2 would by 0.26).
_INTERVAL = 1e-4
_MOST_POINTS = 1_000_000


def spent(events: Iterable[Event], delta: float) -> float:
    """Return the total epsilon at `delta`: the maximum over scopes and partitions."""
    return max(by_scope(events, delta).values(), default=0.0)


def by_scope(events: Iterable[Event], delta: float) -> dict[str, float]:
    """Return epsilon at `delta` for every scope that was touched."""
    groups: dict[str, list[Event]] = {}
    for event in events:
        groups.setdefault(event.scope, []).append(event)
    return {scope: _scope_epsilon(group, delta) for scope, group in groups.items()}


def _scope_epsilon(events: Sequence[Event], delta: float) -> float:
    parts = {event.partition for event in events if event.partition} or {""}
    return max(composed([e for e in events if e.partition in ("", part)], delta) for part in parts)


def composed(events: Sequence[Event], delta: float) -> float:
    """Return epsilon at `delta` for events that all touch the same records (never below the truth).

    Raises:
        ValueError: when the events mix neighbouring relations, which no accountant can compose.
    """
    return _composed(tuple(events), delta) if events else 0.0


@lru_cache(maxsize=1024)  # totals are asked for again and again: by the ledger, the statement, the metrics
def _composed(events: tuple[Event, ...], delta: float) -> float:
    relations = {event.relation for event in events}
    if len(relations) > 1:
        raise ValueError(f"events under different neighbouring relations do not compose: {sorted(relations)}")
    relation = relations.pop()
    gaussians = [event for event in events if event.kind == "gaussian"]
    pure = sum(event.count * event.epsilon for event in events if event.epsilon is not None)
    if all(event.rate == 1.0 for event in gaussians):
        mu = _gaussian_mu(gaussians, relation)
        simple = pure + (float(dp_accounting.get_epsilon_gaussian(1 / mu, delta)) if gaussians else 0.0)
        if not (gaussians and pure):
            return simple
    else:
        simple = math.inf
    # Both are upper bounds; the discretised one can lie above plain addition by its rounding.
    return min(simple, float(_distribution(events, relation).get_epsilon_for_delta(delta)))


def _gaussian_mu(events: Sequence[Event], relation: Relation) -> float:
    """Return mu of the one Gaussian mechanism (sensitivity over sigma) that equals the composition."""
    sensitivity = 2.0 if relation == "replace_one" else 1.0
    return sensitivity * math.sqrt(sum(e.count / e.sigma**2 for e in events if e.sigma is not None))


def _distribution(events: Sequence[Event], relation: Relation) -> pld.PrivacyLossDistribution:
    interval = _interval(events)
    total = pld.identity(value_discretization_interval=interval)
    for event in events:
        total = total.compose(_single(event, relation, interval).self_compose(event.count))
    return total


def _interval(events: Sequence[Event]) -> float:
    """Return the discretisation: coarser where hardly any noise makes losses too large for a fine one."""
    largest = max(2 / e.sigma**2 + 20 / e.sigma if e.sigma is not None else e.epsilon or 0 for e in events)
    return max(_INTERVAL, largest / _MOST_POINTS)


def _single(event: Event, relation: Relation, interval: float) -> pld.PrivacyLossDistribution:
    if event.kind == "gaussian":
        return pld.from_gaussian_mechanism(
            event.sigma,
            value_discretization_interval=interval,
            sampling_prob=event.rate,
            neighboring_relation=_RELATIONS[relation],
        )
    # Every epsilon-DP mechanism is dominated by randomised response with the same epsilon.
    assert event.epsilon is not None
    return pld.from_randomized_response(2 / (1 + math.exp(event.epsilon)), 2, value_discretization_interval=interval)
