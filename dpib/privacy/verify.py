"""Recompute epsilon from a ledger alone: no model, no data, and no trust in the total that came with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from dpib.privacy import accounting
from dpib.privacy.accounting import prv
from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Event, Scope
from dpib.privacy.ledger import SLACK, Account

TOLERANCE = 1e-3
"""How far, relatively, a stated epsilon may lie from the recomputed one: accountants differ in rounding by version."""

_NOTHING = 1e-6  # an epsilon that an accountant may well round to 0


@dataclass(frozen=True)
class Verdict:
    """What was found: lines for people, and the reasons (none if all is well) why the statement does not hold."""

    lines: tuple[str, ...]
    faults: tuple[str, ...]


def verify(account: Account, stated: float | None) -> Verdict:
    """Recompute the total of `account` by privacy loss distributions and by RDP, and by PRV where it applies.

    Args:
        account: the ledger.
        stated: the epsilon that somebody claims for it, or None: then the ledger's budget is the claim.
    """
    total = account.spent()
    lines = [
        f"data set {account.dataset}: {account.unit}, neighbours by {account.relation}, delta {account.delta:.6g}",
        f"{len(account.events)} releases; the total by this ledger's accountant ({account.accountant}) "
        f"is epsilon {total:.6g}, its budget {account.epsilon:g}",
    ]
    faults = _claims(account, stated, total)
    for scope in account.spent_by_scope():
        found, doubts = _cross_check([e for e in account.events if e.scope == scope], scope, account.delta)
        lines += found
        faults += doubts
    lines += _coverage(account)
    for other in account.others:
        theirs = verify(other, None)
        lines += [f"beside it, learnt from before: {theirs.lines[0]}", *theirs.lines[1:]]
        faults += [f"{other.dataset}: {fault}" for fault in theirs.faults]
    return Verdict(tuple(lines), tuple(faults))


def _claims(account: Account, stated: float | None, total: float) -> list[str]:
    faults = []
    if total > account.epsilon * SLACK:
        faults.append(f"the releases cost epsilon {total:.6g}, more than the budget {account.epsilon:g}")
    if stated is None:
        return faults
    if account.tainted:
        faults.append(f"epsilon {stated:.6g} is stated, but the noise came from a fixed seed: nothing is private")
    if total > stated * (1 + TOLERANCE):
        faults.append(f"epsilon {stated:.6g} is stated, but the releases cost {total:.6g}")
    elif total < stated * (1 - TOLERANCE):
        faults.append(f"epsilon {stated:.6g} is stated, but the releases cost only {total:.6g}: they do not match")
    return faults


def _cross_check(events: Sequence[Event], scope: Scope | str, delta: float) -> tuple[list[str], list[str]]:
    """Return what each accountant says of one scope, and where they contradict each other."""
    tight, loose = (next(iter(accounting.totals(events, delta, a).values())) for a in ("pld", "rdp"))
    name = "privacy loss distributions" if tight.accountant == "pld" else tight.accountant
    lines = [f"{scope}: epsilon {tight.epsilon:.6g} ({name}), {loose.epsilon:.6g} (rdp)"]
    faults = []
    if tight.epsilon > loose.epsilon * (1 + TOLERANCE) + _NOTHING:
        faults.append(f"{scope}: the tight accountant exceeds RDP, an upper bound of its own: report this as a defect")
    try:
        lower, _, upper = prv.interval(events, delta)
    except BudgetError as error:
        return [*lines, f"{scope}: no PRV interval: {error}"], faults
    lines.append(f"{scope}: PRV says between {lower:.6g} and {upper:.6g}")
    if not lower <= tight.epsilon <= upper:
        faults.append(f"{scope}: the tight accountant lies outside the PRV interval: report this as a defect")
    return lines, faults


def _coverage(account: Account) -> list[str]:
    """Return what the recomputed epsilon speaks of, and what it does not."""
    lines = [f"covered: {event.id} ({event.kind}, {event.count} time(s)): {event.label}" for event in account.events]
    lines += [f"not covered: {entry.name} on {entry.scope} images: {entry.what}" for entry in account.yardstick]
    if account.tainted:
        lines.append("not private at all: the noise came from a fixed seed")
    return [
        *lines,
        "not covered: other runs on the same images, whose epsilons add up",
        "not checked: that the program which wrote this ledger made these releases and no others",
    ]
