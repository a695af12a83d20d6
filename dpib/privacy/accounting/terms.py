"""What every accountant must know of an event: how far one record moves it, and whether it is purely epsilon-DP.

The factor of `replace_one` stands here and nowhere else. Libraries differ in it (dp_accounting's PLD
doubles the distance by itself, its RDP does not, and refuses Laplace), so dpib passes every library the
relation or the doubled distance, never both.
"""

import math
from collections.abc import Iterable

from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Event


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
