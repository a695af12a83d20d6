"""What every accountant must know of events: which are alike, how far one record moves them, what can be computed.

The factor of `replace_one` stands here and nowhere else. Libraries differ in it (dp_accounting's PLD
doubles the distance by itself, its RDP does not, and refuses Laplace), so dpib passes every library the
relation or the doubled distance, never both.
"""

import math
from collections.abc import Iterable, Sequence

from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Event

LEAST_DELTA = 1e-14
"""Below it the tails of 64-bit noise, a draw in 1e17, are no longer small against delta."""
LEAST_SIGMA = 1e-9
MOST_SIGMA = 1e30
"""Beyond it noise in float32 is infinite."""
MOST_RUNS = 10**10
"""Beyond it what rounding adds to every run shows in their sum."""


def computable(events: Iterable[Event], delta: float) -> None:
    """Raise `BudgetError`, and say what to choose, for what float64 cannot account for."""
    if delta < LEAST_DELTA:
        raise BudgetError(
            f"delta = {delta:g} is below what 64-bit noise can keep: choose at least {LEAST_DELTA:g}; "
            "usual is a little below one over the number of images"
        )
    for event in events:
        if event.count > MOST_RUNS:
            raise BudgetError(
                f"{event.id!r} runs {event.count:g} times, at most {MOST_RUNS:g} can be accounted for: choose fewer"
            )
        price = event.sigma or event.scale
        if price is not None and price < LEAST_SIGMA:
            raise BudgetError(
                f"{event.id!r} has noise of {price:g} times the sensitivity, which hides nothing: "
                f"choose at least {LEAST_SIGMA:g}"
            )
        if price is not None and price > MOST_SIGMA:
            raise BudgetError(
                f"{event.id!r} has noise of {price:g} times the sensitivity, more than a float32 holds: "
                f"choose at most {MOST_SIGMA:g}"
            )
        computable(event.base, delta)


def merged(events: Sequence[Event]) -> tuple[Event, ...]:
    """Return the events, those that differ in name alone as one that runs as often as all of them."""
    alike: dict[Event, Event] = {}
    for event in events:
        kind = event.model_copy(update={"id": "", "label": "", "count": 1})
        known = alike.get(kind)
        together = event.count if known is None else known.count + event.count
        alike[kind] = (known or event).model_copy(update={"count": together})
    return tuple(alike.values())


def distance(event: Event) -> float:
    """Return how far one record moves the sum, in units of the largest contribution.

    Zero-out replaces a contribution by nothing, `replace_one` by its opposite at worst. A sample without
    replacement holds another record in this one's place, so there it is 2 under either relation.
    """
    return 2.0 if event.relation == "replace_one" or event.kind == "gaussian_wor" else 1.0


def pure_epsilon(event: Event) -> float | None:
    """Return the epsilon of all runs of an event if it is epsilon-DP with delta = 0, else None.

    The best of a truncated negative binomial number of epsilon-DP trials is (2 + eta) epsilon-DP
    (Papernot and Steinke 2022, corollary 3).
    """
    if event.epsilon is not None:
        return event.count * event.epsilon
    if event.scale is not None:
        return event.count * distance(event) / event.scale
    if event.stopping is not None and event.stopping.eta is not None:
        trial = pure_sum(event.base)
        return None if trial is None else event.count * (2 + event.stopping.eta) * trial
    return None


def pure_sum(events: Iterable[Event]) -> float | None:
    """Return the plain sum of epsilons, or None when one of the events is not epsilon-DP."""
    parts = [pure_epsilon(event) for event in events]
    return None if None in parts else math.fsum(part for part in parts if part is not None)


def refuse(accountant: str, event: Event, why: str) -> BudgetError:
    """Return the error that says which event an accountant cannot carry."""
    return BudgetError(
        f"the {accountant} accountant cannot carry {event.id!r} ({event.kind}): {why}; use accountant=pld"
    )
