"""One ledger follows the images: what was released before about the same records stays on the account."""

from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Event
from dpib.privacy.ledger import SLACK, Account

_SAME = ("unit", "relation", "delta", "scopes")


def inherit(upstream: Account, account: Account) -> Account:
    """Return `account`, not yet begun, with everything that `upstream` holds before what it will charge itself.

    The budget and the accountant are those of `account`. Inherited releases take names of their own: a
    training that goes on from another one repeats its charges, and they are paid twice. A ledger about other
    images is theirs and changes nothing.

    Raises:
        BudgetError: when `upstream` speaks of the same data set under another relation, delta or split, or
            already exceeds the budget.
    """
    if upstream.dataset != account.dataset:
        return account
    for key in _SAME:
        if getattr(upstream, key) != getattr(account, key):
            raise BudgetError(
                f"what this run starts from has a ledger with {key} = {getattr(upstream, key)}, this run has "
                f"{getattr(account, key)}: give the same, or start from public data"
            )
    changes = {
        "events": [_renamed(event) for event in upstream.events],
        "yardstick": upstream.yardstick,
        "tainted": upstream.tainted,
    }
    continued = account.model_copy(update=changes)
    total = continued.spent()
    if total > continued.epsilon * SLACK:
        raise BudgetError(
            f"what this run starts from already spent epsilon = {total:.4g} on {account.dataset}, over the budget "
            f"of {continued.epsilon:g}: raise epsilon"
        )
    return continued


def _renamed(event: Event) -> Event:
    scope, _, name = event.id.partition("/")
    return event.model_copy(update={"id": f"{scope}/before/{name}"})
