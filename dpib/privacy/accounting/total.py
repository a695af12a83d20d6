"""The total of a ledger: composition where events touch the same records, the maximum where they do not.

Over scopes records are disjoint by public position, so the total is the
maximum (parallel composition, McSherry 2009).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from dpib.privacy.accounting import pld, prv, rdp
from dpib.privacy.accounting.terms import computable, merged, pure_sum
from dpib.privacy.events import Event, Relation, Scope

# Gaussian differential privacy is not among them: its central limit under-reports epsilon.
Accountant = Literal["pld", "rdp", "prv"]


@dataclass(frozen=True)
class Total:
    """Epsilon, by which accountant it was found, and for which neighbouring relation it holds.

    `accountant` is `exact` where a closed form served (Gaussians that see every record) or plain addition
    was as good, and `rdp` where an event is among them that only Renyi accounting carries.
    """

    epsilon: float
    accountant: Accountant | Literal["exact"]
    relation: Relation


def spent(events: Iterable[Event], delta: float, accountant: Accountant = "pld") -> float:
    """Return the total epsilon at `delta`: the maximum over scopes."""
    return max(by_scope(events, delta, accountant).values(), default=0.0)


def by_scope(events: Iterable[Event], delta: float, accountant: Accountant = "pld") -> dict[str, float]:
    """Return epsilon at `delta` for every scope that was touched."""
    return {scope: total.epsilon for scope, total in totals(events, delta, accountant).items()}


def totals(events: Iterable[Event], delta: float, accountant: Accountant = "pld") -> dict[Scope, Total]:
    """Return the labelled total of every scope that was touched."""
    groups: dict[Scope, list[Event]] = {}
    for event in events:
        groups.setdefault(event.scope, []).append(event)
    return {scope: _composed(tuple(group), delta, accountant) for scope, group in groups.items()}


def composed(events: Sequence[Event], delta: float, accountant: Accountant = "pld") -> float:
    """Return epsilon at `delta` for events that all touch the same records (never below the truth).

    Raises:
        ValueError: when the events mix neighbouring relations, which no accountant can compose.
        BudgetError: for an event that this accountant cannot carry, or figures beyond what 64 bits can account for.
    """
    return _composed(tuple(events), delta, accountant).epsilon if events else 0.0


@lru_cache(maxsize=1024)  # totals are asked for again and again: by the ledger, the statement, the metrics
def _composed(events: tuple[Event, ...], delta: float, accountant: Accountant) -> Total:
    relations = {event.relation for event in events}
    if len(relations) > 1:
        raise ValueError(f"events under different neighbouring relations do not compose: {sorted(relations)}")
    relation = relations.pop()
    computable(events, delta)
    events = merged(events)
    if accountant == "prv":
        return Total(prv.interval(events, delta).upper, "prv", relation)
    if accountant == "rdp" or not all(pld.carries(event) for event in events):
        found, plain = rdp.epsilon(events, delta), pure_sum(events)
        return Total(found if plain is None else min(found, plain), "rdp", relation)
    return _tight(events, delta, relation)


def _tight(events: tuple[Event, ...], delta: float, relation: Relation) -> Total:
    """Return the smallest of the upper bounds that apply, labelled by where it came from."""
    gaussians = [event for event in events if event.kind == "gaussian"]
    others = [event for event in events if event.kind != "gaussian"]
    bounds = []
    if all(event.rate == 1 for event in gaussians):
        simple = (pld.exact_gaussian(gaussians, delta) if gaussians else 0.0) + (pure_sum(others) or 0.0)
        bounds.append(Total(simple, "exact", relation))
        if not others or (not gaussians and sum(event.count for event in others) == 1):
            return bounds[0]
    bounds.append(Total(pld.epsilon(events, delta), "pld", relation))
    return min(bounds, key=lambda total: total.epsilon)
