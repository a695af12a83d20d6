"""One ledger follows the images: what was released before about the same records stays on the account."""

from collections.abc import Callable, Iterable, Sequence

from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Event, Scope
from dpib.privacy.ledger import SLACK, Account, Public

_SAME = ("unit", "relation", "delta", "scopes")


def inherit(upstream: Account, account: Account, same: Callable[[Account], bool] = lambda _: False) -> Account:
    """Return `account`, not yet begun, with everything that `upstream` holds before what it will charge itself.

    The budget and the accountant are those of `account`. Inherited releases take names of their own: a
    training that goes on from another one repeats its charges, and they are paid twice. The accounts of other
    data sets travel along, so that a later training on one of them finds its own.

    Args:
        upstream: the account of what the run starts from.
        account: a fresh one.
        same: whether an account under another name is known to be about the same images.

    Raises:
        BudgetError: when `upstream` speaks of the same images under another relation, delta or split, or
            already exceeds the budget.
    """
    others = []
    for each in _apart(upstream):
        if each.dataset == account.dataset or same(each):
            account = _continued(each, account)
        else:
            others.append(each)
    return account.model_copy(update={"others": others, "public": merged(account.public, upstream.public)})


def about(account: Account, dataset: str) -> Account | None:
    """Return the account of `dataset` that `account` is or carries, the rest beside it; None where there is none."""
    known = {each.dataset: each for each in _apart(account)}
    found = known.pop(dataset, None)
    if found is None:
        return None
    return found.model_copy(update={"others": list(known.values()), "public": merged(account.public, found.public)})


def spent_since(account: Account, spendings: Iterable[Event], scope: Scope = "val") -> Account:
    """Return `account` with what others are known to have spent on the same images of `scope`, each event once.

    Raises:
        BudgetError: when that was under another neighbouring relation, which does not compose with this one.
    """
    events = {event.id: event for event in account.events}
    for event in spendings:
        if event.relation != account.relation:
            raise BudgetError(
                f"{event.id!r} was spent on the same held-out images under {event.relation}, this run has "
                f"{account.relation}: give -P relation={event.relation}"
            )
        # Another split may have held out another number of them.
        events.setdefault(event.id, event.on(scope, account.scopes[scope]))
    return account.model_copy(update={"events": list(events.values())})


def merged(ones: Sequence[Public], others: Sequence[Public]) -> list[Public]:
    """Return both lists as one, each entry once."""
    return list(dict.fromkeys([*ones, *others]))


def _apart(account: Account) -> list[Account]:
    return [*account.others, account.model_copy(update={"others": []})]


def _continued(upstream: Account, account: Account) -> Account:
    for key in _SAME:
        if getattr(upstream, key) != getattr(account, key):
            raise BudgetError(
                f"what this run starts from has a ledger with {key} = {getattr(upstream, key)}, this run has "
                f"{getattr(account, key)}: give the same, or start from public data"
            )
    changes = {
        "events": _joined(account.events, upstream.events),
        "yardstick": [*account.yardstick, *upstream.yardstick],
        "tainted": account.tainted or upstream.tainted,
        "disjoint": account.disjoint and upstream.disjoint,
        "images": account.images if account.images == upstream.images else None,
        "origins": [*upstream.origins, *account.origins],
    }
    continued = account.model_copy(update=changes)
    total = continued.spent()
    if total > continued.epsilon * SLACK:
        raise BudgetError(
            f"what this run starts from already spent epsilon = {total:.4g} on {account.dataset}, over the budget "
            f"of {continued.epsilon:g}: raise epsilon"
        )
    return continued


def _joined(events: Sequence[Event], earlier: Sequence[Event]) -> list[Event]:
    """Return both lists, the trainings of `earlier` named apart from what the next one charges.

    Events on held-out images have names of their own, by which the same one is known wherever it comes from.
    """
    known = {event.id: event for event in events}
    for event in earlier:
        found = event
        while found.scope == "train" and (found is event or found.id in known):
            found = found.model_copy(update={"id": f"train/before/{found.id.removeprefix('train/')}"})
        known.setdefault(found.id, found)
    return list(known.values())
