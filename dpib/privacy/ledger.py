"""The append-only account of everything that was released about one sensitive data set.

A charge is written to disk before its noise is drawn, so that a crash can never hide a release.
Charging the same id again with the same content is the resumption of that release and costs nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dpib.atomic import write_text
from dpib.privacy import accounting
from dpib.privacy.accounting import Accountant
from dpib.privacy.errors import BudgetError as BudgetError  # part of the ledger's interface
from dpib.privacy.events import Charge, Event, Relation, Scope

LEDGER = Path("privacy") / "ledger.json"
"""Where a run keeps its ledger among its artifacts."""
STATEMENT = Path("privacy") / "statement.md"
"""And where the same in words."""
SLACK = 1 + 1e-9  # rounding of the accountant itself, not a tolerance for overspending
_TERMS = ("dataset", "relation", "accountant", "epsilon", "delta", "scopes")


class Yardstick(BaseModel):
    """A figure computed without noise, outside epsilon; see `Ledger.declare`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    scope: str
    what: str


class Public(BaseModel):
    """Images that a training took as public: nobody is protected who is in them.

    `digest` is `images.set_digest` of them, or the SHA-256 of a checkpoint that does not say what it learnt from.
    `declared` says that images of the data set were known to be among them, `compared` whether anybody looked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str
    declared: bool = False
    compared: bool = True


SOURCES = TypeAdapter(list[Public])


class Account(BaseModel):
    """The content of `privacy/ledger.json`: one data set, and what is known of all others that flowed in.

    `origins` are the trainings that the account speaks of, each by a random name, the newest last. `images` is the
    digest of the images in their order, where their publisher has made it known; that of other images stays on
    the machines that have them. Where the scopes are not known to be `disjoint`, every event counts for every image.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    format: Literal["dpib-ledger-1"] = "dpib-ledger-1"
    dataset: str
    unit: Literal["one image with its label"] = "one image with its label"
    relation: Relation
    accountant: Accountant = "pld"
    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    scopes: dict[Scope, int]
    events: list[Event] = []
    yardstick: list[Yardstick] = []
    tainted: bool = False
    disjoint: bool = True
    origins: list[str] = []
    images: str | None = None
    public: list[Public] = []
    others: "list[Account]" = []

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an account from JSON text that may come from anywhere.

        Raises:
            BudgetError: naming the first thing that is wrong with it.
        """
        try:
            account = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "text"
            raise BudgetError(f"not a ledger of this format: {where}: {first['msg']}") from None
        account.check()
        return account

    def check(self) -> None:
        """Raise `BudgetError` when the events are not all different, or speak of other records than the account."""
        ids = [event.id for event in self.events]
        if len(set(ids)) < len(ids):
            raise BudgetError("not a ledger of this format: an event id occurs twice")
        for event in self.events:
            if event.relation != self.relation:
                raise BudgetError(
                    f"not a ledger of this format: {event.id!r} is under {event.relation}, not {self.relation}"
                )
            if event.n != self.scopes.get(event.scope):
                raise BudgetError(f"not a ledger of this format: {event.id!r} touches {event.n} {event.scope} images")
        names = [self.dataset, *(other.dataset for other in self.others)]
        if len(set(names)) < len(names) or any(other.others for other in self.others):
            raise BudgetError("not a ledger of this format: it has more than one account of a data set")
        for other in self.others:
            other.check()

    def spent(self) -> float:
        """Return the total epsilon at `delta`: the maximum over scopes, or of all together if they may overlap."""
        return self.total_of(self.events)

    def total_of(self, events: Sequence[Event]) -> float:
        """Return the total epsilon at `delta` of `events` on these scopes."""
        if self.disjoint:
            return accounting.spent(events, self.delta, self.accountant)
        return accounting.composed(events, self.delta, self.accountant)

    def require(self, events: Sequence[Event]) -> None:
        """Raise `BudgetError` where the budget does not hold `events` on top of what was spent."""
        total = self.total_of([*self.events, *events])
        if total > self.epsilon * SLACK:
            names = ", ".join(event.id for event in events) or "what was spent before"
            raise BudgetError(
                f"{names} would bring epsilon to {total:.4g}, over the budget of {self.epsilon:g}: "
                "raise epsilon or the noise"
            )

    def touching(self, scope: Scope) -> list[Event]:
        """Return the events that an image of `scope` may have taken part in, as events of that scope."""
        if self.disjoint:
            return [event for event in self.events if event.scope == scope]
        return [event.on(scope, event.n) for event in self.events]

    def spent_by_scope(self) -> dict[str, float]:
        """Return epsilon at `delta` of the events of every scope that was touched."""
        return accounting.by_scope(self.events, self.delta, self.accountant)

    def text(self) -> str:
        """Return the account as JSON text, without what is empty."""
        return self.model_dump_json(indent=2, exclude_none=True)


class Ledger:
    """An `Account` on disk; every change is durable before the call that made it returns."""

    def __init__(self, account: Account, path: Path) -> None:
        self.account = account
        self.path = path
        self._written: str | None = None

    @classmethod
    def open(cls, path: Path, account: Account, growing: bool = False) -> Self:
        """Continue the ledger at `path`, or start there with `account` (fresh, or inherited from upstream).

        A `growing` one may have a larger budget by now (see `carry`).

        Raises:
            BudgetError: when the file is damaged, or belongs to another data set, budget or relation.
        """
        if not path.exists():
            ledger = cls(account, path)
            ledger._store(account)
            return ledger
        text = _read(path)
        try:
            found = Account.parse(text)
        except BudgetError as error:
            raise BudgetError(f"{path}: {error}; use resume=false to start afresh") from None
        for key in _TERMS:
            if growing and key == "epsilon" and found.epsilon >= account.epsilon:
                continue
            if getattr(found, key) != getattr(account, key):
                raise BudgetError(
                    f"{path} was begun with {key} = {getattr(found, key)}, this run has "
                    f"{getattr(account, key)}: use resume=false to start afresh"
                )
        ledger = cls(found, path)
        ledger._written = text
        return ledger

    def reserve(self, charges: Sequence[Charge], scope: Scope) -> None:
        """Charge all of `charges`, or none: on return they are on disk and noise may be drawn.

        Raises:
            BudgetError: when the total would exceed the budget, or an id is already taken by
                another charge.
        """
        known = {event.id: event for event in self.account.events}
        fresh: list[Event] = []
        for charge in charges:
            event = charge.event(scope, self.account.scopes[scope], self.account.relation)
            if known.get(event.id, event) != event:
                raise BudgetError(f"the ledger already holds another event with id {event.id!r}")
            if event.id not in known:
                known[event.id] = event
                fresh.append(event)
        self.account.require(fresh)
        if fresh:
            self._store(self.account.model_copy(update={"events": [*self.account.events, *fresh]}))
            self.account.events.extend(fresh)

    def carry(self, account: Account) -> None:
        """Go on from `account`, this one with what others spent on the same images: the budget grows to hold it."""
        if account != self.account:
            self._store(account)
            self.account = account

    def declare(self, name: str, scope: str, what: str) -> None:
        """Write down that an un-noised figure on real images is about to be computed."""
        entry = Yardstick(name=name, scope=scope, what=what)
        if entry not in self.account.yardstick:
            self._store(self.account.model_copy(update={"yardstick": [*self.account.yardstick, entry]}))
            self.account.yardstick.append(entry)

    def taint(self) -> None:
        """Mark everything in this ledger as not private (its noise came from a known seed)."""
        if not self.account.tainted:
            self._store(self.account.model_copy(update={"tainted": True}))
            self.account.tainted = True

    def json(self) -> str:
        """Return the account as JSON text."""
        return self.account.text()

    def _store(self, changed: Account) -> None:
        """Write `changed`; in memory the account changes afterwards, so that a failed write leaves no charge."""
        if self._written is not None and (not self.path.exists() or _read(self.path) != self._written):
            raise BudgetError(
                f"{self.path} was changed by someone else while this run was using it: stop the other run"
            )
        text = changed.text()
        write_text(self.path, text)
        self._written = text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BudgetError(f"{path} is not a ledger, or is damaged: use resume=false to start afresh") from None
