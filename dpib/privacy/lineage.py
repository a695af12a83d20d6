"""One ledger follows the images: what several stages released about one data set, united."""

from collections.abc import Sequence

from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Event
from dpib.privacy.ledger import SLACK, Account, Yardstick

_SAME = ("dataset", "unit", "relation", "delta", "scopes")


def merge(ancestors: Sequence[Account], account: Account) -> Account:
    """Return `account` with the events of all `ancestors` before its own; an event of several counts once.

    The budget and the accountant are those of `account`. The same id with the same content is the same
    release, seen through two descendants; an event that exists twice under different ids counts twice.

    Raises:
        BudgetError: when an ancestor speaks of another data set, relation, delta or split, when two of
            them hold different events under one id, or when the union exceeds the budget.
    """
    events: dict[str, Event] = {}
    yardstick: dict[Yardstick, None] = {}
    for other in (*ancestors, account):
        for key in _SAME:
            if getattr(other, key) != getattr(account, key):
                raise BudgetError(
                    f"an upstream ledger has {key} = {getattr(other, key)}, this run has {getattr(account, key)}: "
                    "start again from the stage that began it"
                )
        for event in other.events:
            if events.setdefault(event.id, event) != event:
                raise BudgetError(f"two upstream ledgers hold different events with id {event.id!r}")
        yardstick |= dict.fromkeys(other.yardstick)
    changes = {
        "events": list(events.values()),
        "yardstick": list(yardstick),
        "tainted": any(other.tainted for other in (*ancestors, account)),
    }
    merged = account.model_copy(update=changes)
    total = merged.spent()
    if total > merged.epsilon * SLACK:
        raise BudgetError(
            f"upstream stages already spent epsilon = {total:.4g}, over the budget of {merged.epsilon:g}: raise epsilon"
        )
    return merged
