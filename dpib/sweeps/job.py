"""A sweep as its workers know it: what its trials share, and what it pays by."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from dpib.config import Config, from_text, overlaid
from dpib.config.reach import source_digest
from dpib.data.catalog import Card
from dpib.errors import UserError
from dpib.metrics.utility import accuracy
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account, Ledger
from dpib.section import dump_yaml
from dpib.sensitive import Sensitive
from dpib.spendings import Spendings
from dpib.stages.context import Context
from dpib.stages.evaluate import tester
from dpib.stages.solving import training_plan
from dpib.sweeps.book import Book
from dpib.sweeps.space import Point, changes, extremes, independent
from dpib.sweeps.spec import Sweep
from dpib.tracking import Store


@dataclass(frozen=True)
class Order:
    """A sweep as it was asked for: `config` is what its trials share, `url` the database of the study."""

    spec: Sweep
    config: Config
    card: Card
    url: str
    workers: int = 1
    generate_run: str | None = None


@dataclass(frozen=True)
class Job:
    """One sweep: what its trials share.

    `config` and `card` are those of the proxy in mode public; `generate_run` made the synthetic set of a classifier
    sweep, whose digest is `judged`; `charge` is the price of one score, or None where none is released per trial;
    `training` is what every training must charge, or None where trials may differ.
    """

    spec: Sweep
    config: Config
    card: Card
    store: Store
    book: Book
    study: str
    parent: str
    sensitive: Sensitive
    generate_run: str | None = None
    judged: str | None = None
    charge: Charge | None = None
    training: tuple[Charge, ...] | None = None

    def memo(self) -> dict[str, Any]:
        """Return what `recall` needs."""
        return {
            "work": "sweep",
            "code": source_digest(),
            "tracking": self.store.uri,
            "spec": self.spec.model_dump(mode="json"),
            "config": dump_yaml(self.config.nested()),
            "parent": self.parent,
            "generate_run": self.generate_run,
            "judged": self.judged,
            "charge": None if self.charge is None else asdict(self.charge),
            "training": None if self.training is None else [asdict(charge) for charge in self.training],
        }

    @classmethod
    def recall(cls, memo: dict[str, Any], url: str, study: str, store: Store) -> Self:
        """Return the job that a launcher described in `memo`.

        Raises:
            UserError: when this worker runs other code than the launcher.
        """
        if memo["code"] != source_digest():
            raise UserError(f"study {study} was begun by another version of dpib: start the workers from that one")
        spec = Sweep.model_validate(memo["spec"])
        config, card = from_text(memo["config"], {}, f"study {study}")
        charge = None if memo["charge"] is None else _charge(memo["charge"])
        training = None if memo["training"] is None else tuple(_charge(each) for each in memo["training"])
        book, sensitive = Book(url, study), Sensitive(config, card)
        if spec.mode not in ("public", "one_shot") and not sensitive.known(book.account()):
            book.disjoin()
        return cls(
            spec,
            config,
            card,
            store,
            book,
            study,
            memo["parent"],
            sensitive,
            memo["generate_run"],
            memo["judged"],
            charge,
            training,
        )

    def purse(self) -> Spendings:
        """Return what pays for this sweep's scores."""
        trainings = tuple(self.book.account().origins)
        return Spendings(self.sensitive, self.store, self.parent, trainings, self.study, self.judged)

    def spend(self, charges: Sequence[Charge]) -> Account:
        """Charge releases on held-out images, where this machine and the store find them; returns the account."""
        account = self.book.reserve(charges, "val")
        events = [c.event("val", account.scopes["val"], account.relation) for c in charges]
        self.purse().record(events, closed(account, self.spec.epsilon_total or self.config.epsilon))
        return account

    def at(self, point: Point) -> Config:
        """Return the configuration of a trial. A retry finds what its first attempt has finished."""
        return overlaid(self.config, {**changes(point, self.spec.space), "reuse": True, "resume": True})


def closed(account: Account, cap: float) -> Account:
    """Return an account with the cap of its sweep, or with what it came to where the mode knows no cap."""
    return account.model_copy(update={"epsilon": max(cap, account.spent())})


def equal_plans(job: Job, points: Sequence[Point] = ()) -> tuple[Charge, ...] | None:
    """Return the charges that a training makes wherever in the space it is, or None where that differs.

    Points are compared, and the space itself does not say so: a key may or may not enter a plan.
    """
    account = job.sensitive.account()
    drawn = independent(job.spec.space, "random", 8, 0)
    corners = [*drawn, *({**drawn[0], **point} for point in extremes(job.spec.space))]
    plans = [training_plan(job.at(point), job.card, account) for point in [*corners, *points]]
    return plans[0] if all(plan == plans[0] for plan in plans) else None


def tested(job: Job, context: Context, predict: Callable[..., Any]) -> float:
    """Return the accuracy in percent on real test images: an un-noised figure, declared as such."""
    account = job.book.declare("utility", "test", "accuracy of the trained classifiers on real test images")
    yardstick = job.sensitive.yardstick("test", Ledger(account, context.private / "yardstick.json"))
    return accuracy(tester(yardstick)("trial", predict))


def _charge(memo: dict[str, Any]) -> Charge:
    return Charge(**{**memo, "base": ()})
