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


def about(account: Account, dataset: str, same: Callable[[Account], bool] = lambda _: False) -> Account | None:
    """Return the account of the images of `dataset` that `account` is or carries, the rest beside it, or None.

    Accounts of one set of images under several names are one account: their releases touched the same records.

    Args:
        account: the one that came with what is looked at.
        dataset: the name of the images.
        same: whether an account under another name is known to be about the same images.

    Raises:
        BudgetError: when accounts of the same images are under different neighbouring relations, or one has capped
            steps on another number of images.
    """
    mine: list[Account] = []
    others: list[Account] = []
    for each in _apart(account):
        (mine if each.dataset == dataset or same(each) else others).append(each)
    if not mine:
        return None
    found, *more = sorted(mine, key=lambda each: (not each.events, each.dataset != dataset))
    for each in more:
        found = _together(_in_terms_of(found, each), found)
    changes = {
        "dataset": dataset,
        "epsilon": max(found.spent(), *(each.epsilon for each in mine)) if more else found.epsilon,
        "others": others,
        "public": merged(account.public, found.public),
    }
    return found.model_copy(update=changes)


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
    continued = _together(upstream, account)
    total = continued.spent()
    if total > continued.epsilon * SLACK:
        raise BudgetError(
            f"what this run starts from already spent epsilon = {total:.4g} on {account.dataset}, over the budget "
            f"of {continued.epsilon:g}: raise epsilon"
        )
    return continued


def _in_terms_of(account: Account, other: Account) -> Account:
    """Return an `other` account of the same images as one with the delta and the split of `account`."""
    if other.relation != account.relation:
        raise BudgetError(
            f"{account.dataset} and {other.dataset} are the same images here, and what was spent on them under "
            f"{account.relation} and {other.relation} does not add up: train under one relation"
        )
    scopes = {**other.scopes, **account.scopes}
    for event in other.events:
        # What a cap costs depends on the number of records, which this split would misstate.
        if event.cap is not None and event.n != scopes[event.scope]:
            raise BudgetError(
                f"{event.id!r} was capped on {event.n} images of {other.dataset}, {account.dataset} has "
                f"{scopes[event.scope]} of them: train under one split (data.holdout)"
            )
    events = [event.on(event.scope, scopes[event.scope]) for event in other.events]
    disjoint = other.disjoint and other.scopes == account.scopes
    return other.model_copy(update={"events": events, "scopes": scopes, "disjoint": disjoint})


def _together(upstream: Account, account: Account) -> Account:
    """Return `account` with everything that `upstream` says of the same images, its trainings as earlier ones."""
    changes = {
        "scopes": {**upstream.scopes, **account.scopes},
        "events": _joined(account.events, upstream.events),
        "yardstick": list(dict.fromkeys([*account.yardstick, *upstream.yardstick])),
        "tainted": account.tainted or upstream.tainted,
        "disjoint": account.disjoint and upstream.disjoint,
        "images": account.images if account.images == upstream.images else None,
        "origins": list(dict.fromkeys([*upstream.origins, *account.origins])),
    }
    return account.model_copy(update=changes)


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
