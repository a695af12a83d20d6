"""The one ledger of a sweep, and the scores it released, where every worker finds them: the study's database.

A charge is in the database before its noise is drawn. A score is seen by nobody, its own worker included,
before it is in the database; whoever asks for the same score again is given that value. So a trial that is
begun again by another worker neither pays for its score twice nor releases it twice. A training that is begun again
where nothing of the first attempt lies is another one, and is charged as such.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import Column, Float, Integer, MetaData, String, Table, Text, create_engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from dpib.errors import UserError
from dpib.privacy.events import Charge, Scope
from dpib.privacy.ledger import Account, Ledger, Public
from dpib.privacy.lineage import merged

_META = MetaData()
_ACCOUNTS = Table(
    "dpib_account",
    _META,
    Column("study", String(200), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("account", Text, nullable=False),
)
_RELEASES = Table(
    "dpib_release",
    _META,
    Column("study", String(200), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("value", Float(53), nullable=False),
)
_PLACES = Table(
    "dpib_place",
    _META,
    Column("study", String(200), primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("place", String(64), nullable=False),
)


class Book:
    """The account of one study and its released scores, shared by all workers.

    Changes are compare-and-swap on a version number: nothing is locked while epsilon is computed, and of
    two workers who charge at once, the second computes again with the first one's charge in the account.
    """

    def __init__(self, url: str, study: str) -> None:
        # A worker on the same file waits for the others instead of failing.
        options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
        self._engine = create_engine(url, pool_pre_ping=True, **options)
        self._study = study

    def begin(self, account: Account) -> None:
        """Make the tables, and start with `account` unless the study has one already."""
        _META.create_all(self._engine)
        row = {"study": self._study, "version": 0, "account": account.model_dump_json()}
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(_ACCOUNTS).values(row))
        except IntegrityError:
            return

    def require(self) -> None:
        """Raise `UserError` where this database does not hold the account that was begun for the study."""
        _META.create_all(self._engine)
        query = select(_ACCOUNTS.c.version).where(_ACCOUNTS.c.study == self._study)
        with self._engine.connect() as connection:
            if connection.execute(query).scalar() is None:
                raise UserError(
                    f"the database does not hold the ledger of study {self._study}, which was begun in another one: "
                    "give that one as storage, or -P resume=false to begin a sweep of its own"
                )

    def disjoin(self) -> None:
        """Let every event count for every image: another machine takes part whose split nobody can compare."""
        self._change(lambda ledger: ledger.carry(ledger.account.model_copy(update={"disjoint": False})))

    def account(self) -> Account:
        """Return the account as it stands now."""
        return self._read()[1]

    def reserve(self, charges: Sequence[Charge], scope: Scope) -> Account:
        """Charge all of `charges`, or none; the same charges again cost nothing. Returns the account.

        Raises:
            BudgetError: when the total would exceed the cap.
        """
        return self._change(lambda ledger: ledger.reserve(charges, scope))

    def allows(self, charges: Sequence[Charge], scope: Scope) -> None:
        """Raise `BudgetError` where `reserve` would; nothing is charged."""
        account = self.account()
        known = {event.id for event in account.events}
        events = [charge.event(scope, account.scopes[scope], account.relation) for charge in charges]
        account.require([event for event in events if event.id not in known])

    def attempt(self, slot: int, place: str) -> int:
        """Return which attempt at a slot the work in `place` is: a place keeps its number, a new one takes the next.

        What was drawn for a charge lies where it was drawn. A retry elsewhere has none of it and draws anew, so it
        must make charges of its own.
        """
        query = select(_PLACES.c.attempt, _PLACES.c.place).where(_PLACES.c.study == self._study, _PLACES.c.slot == slot)
        while True:
            with self._engine.connect() as connection:
                known = {str(row.place): int(row.attempt) for row in connection.execute(query)}
            if place in known:
                return known[place]
            row = {"study": self._study, "slot": slot, "attempt": len(known) + 1, "place": place}
            try:
                with self._engine.begin() as connection:
                    connection.execute(insert(_PLACES).values(row))
            except IntegrityError:
                continue  # another place was faster

    def learn(self, public: Sequence[Public]) -> Account:
        """Write down what a training took as public."""
        return self._change(lambda ledger: ledger.carry(_knowing(ledger.account, public)))

    def declare(self, name: str, scope: str, what: str) -> Account:
        """Write down that an un-noised figure on real images is about to be computed."""
        return self._change(lambda ledger: ledger.declare(name, scope, what))

    def taint(self) -> None:
        """Mark the account as not private."""
        self._change(lambda ledger: ledger.taint())

    def released(self, name: str) -> float | None:
        """Return a score that was released before, or None."""
        query = select(_RELEASES.c.value).where(_RELEASES.c.study == self._study, _RELEASES.c.name == name)
        with self._engine.connect() as connection:
            found = connection.execute(query).scalar()
        return None if found is None else float(found)

    def publish(self, name: str, value: float) -> float:
        """Make a score visible and return it, or the one that another worker made visible first."""
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(_RELEASES).values(study=self._study, name=name, value=value))
        except IntegrityError:
            earlier = self.released(name)
            assert earlier is not None
            return earlier
        return value

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def _read(self) -> tuple[int, Account]:
        query = select(_ACCOUNTS.c.version, _ACCOUNTS.c.account).where(_ACCOUNTS.c.study == self._study)
        with self._engine.connect() as connection:
            row = connection.execute(query).one()
        return int(row.version), Account.parse(row.account)

    def _change(self, change: Callable[[Ledger], None]) -> Account:
        with tempfile.TemporaryDirectory() as folder:
            while True:
                version, account = self._read()
                ledger = Ledger(account.model_copy(deep=True), Path(folder) / f"{version}.json")
                change(ledger)
                if ledger.account == account or self._swap(version, ledger.account):
                    return ledger.account

    def _swap(self, version: int, account: Account) -> bool:
        statement = (
            update(_ACCOUNTS)
            .where(_ACCOUNTS.c.study == self._study, _ACCOUNTS.c.version == version)
            .values(version=version + 1, account=account.model_dump_json())
        )
        with self._engine.begin() as connection:
            return connection.execute(statement).rowcount == 1


def _knowing(account: Account, public: Sequence[Public]) -> Account:
    return account.model_copy(update={"public": merged(account.public, public)})
