"""A sweep as its workers know it, and the work on one of its slots as a tracked run."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from dpib.atomic import write_text
from dpib.config import Config, from_text, overlaid
from dpib.config.fingerprint import source_digest
from dpib.data.catalog import Card
from dpib.data.synthetic import read_gen
from dpib.errors import UserError
from dpib.images import Images
from dpib.metrics.utility import accuracy
from dpib.pipeline import run_pretrain
from dpib.privacy import accounting
from dpib.privacy.events import Charge, Plan
from dpib.privacy.ledger import LEDGER, Account, Ledger
from dpib.runner import Result, Stage, execute
from dpib.section import dump_yaml
from dpib.sensitive import Sensitive
from dpib.spendings import TAG, Spendings
from dpib.stages.context import Context
from dpib.stages.evaluate import evaluate, tester
from dpib.stages.generate import GEN
from dpib.stages.pretrain import FINAL
from dpib.stages.train import started
from dpib.sweeps import modes, trial
from dpib.sweeps.book import Book
from dpib.sweeps.space import Point, changes, independent, logged
from dpib.sweeps.spec import Sweep
from dpib.tracking import Run, Store


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
        return cls(
            spec,
            config,
            card,
            store,
            Book(url, study),
            study,
            memo["parent"],
            Sensitive(config, card),
            memo["generate_run"],
            memo["judged"],
            charge,
            training,
        )

    def purse(self) -> Spendings:
        """Return what pays for this sweep's scores."""
        trainings = tuple(self.book.account().origins)
        experiment = self.store.experiment_of(self.parent)
        return Spendings(self.sensitive, self.store, experiment, trainings, self.study, self.judged)

    def spend(self, charges: Sequence[Charge]) -> Account:
        """Charge releases on held-out images; returns the account. This machine remembers them first."""
        account = self.book.account()
        self.purse().record([c.event("val", account.scopes["val"], account.relation) for c in charges])
        return self.book.reserve(charges, "val")

    def at(self, point: Point) -> Config:
        """Return the configuration of a trial. A retry finds what its first attempt has finished."""
        return overlaid(self.config, {**changes(point, self.spec.space), "reuse": True, "resume": True})


def run_trial(
    job: Job, slot: int, point: Point, stop: trial.Stop, begun: Callable[[str], None]
) -> tuple[Result, float | None]:
    """Return the tracked run of one slot and its score for Optuna, or None where it was given up.

    Args:
        job: the sweep.
        slot: which trial.
        point: where in the space.
        stop: decides at every epoch whether to give up.
        begun: told the id of the run as soon as there is one.

    Raises:
        BudgetError: when the cap does not allow it; nothing was released.
    """
    config, spec = job.at(point), job.spec
    charges = _training(job, config)
    if charges:
        job.book.allows(_plan(job, slot, charges).named(), "train")

    def work(context: Context, run: Run | None) -> dict[str, float]:
        assert run is not None
        begun(run.id)
        run.params(logged(point, spec.space), "sweep.")
        run.tag({"dpib.sweep": job.parent, "dpib.sweep_mode": spec.mode})
        if spec.mode == "public":
            return _public(job, context)
        run.tag({TAG: ",".join(job.purse().own)})
        images = _images(job, slot, context, charges)
        metrics = _classify(job, slot, context, images, stop)
        account = closed(job.book.account(), job.spec.epsilon_total or config.epsilon)
        trial.restate(context, account)
        if not account.tainted and spec.mode != "unaccounted":
            metrics["privacy/epsilon_trial"] = _price(job, charges, "sweep/score" in metrics)
        return metrics

    label = f"trial-{slot:03d}"
    private = spec.mode != "unaccounted"
    stage = Stage("trial", work, (job.study, label), private=private, private_snapshot=True, label=label)
    result = execute(stage, config, job.card, job.store, job.parent)
    return result, result.metrics.get(score_name(spec))


def closed(account: Account, cap: float) -> Account:
    """Return an account with the cap of its sweep, or with what it came to where the mode knows no cap."""
    return account.model_copy(update={"epsilon": max(cap, account.spent())})


def _training(job: Job, config: Config) -> tuple[Charge, ...]:
    """Return the calibrated charges of one trial's training on the sensitive images.

    Raises:
        UserError: when they differ from those of other trials where a sampler that learns proposed them.
    """
    if job.spec.kind == "classifier" or job.spec.mode == "public":
        return ()
    charges = trial.training_plan(config, job.card, job.sensitive.account())
    if job.training is not None and charges != job.training:
        raise UserError(modes.UNEQUAL)
    return charges


def equal_plans(job: Job, points: Sequence[Point] = ()) -> tuple[Charge, ...] | None:
    """Return the charges that a training makes wherever in the space it is, or None where that differs.

    Points are compared, and the space itself does not say so: a key may or may not enter a plan.
    """
    account = job.sensitive.account()
    corners = independent(job.spec.space, "random", 8, 0)
    plans = [trial.training_plan(job.at(point), job.card, account) for point in [*corners, *points]]
    return plans[0] if all(plan == plans[0] for plan in plans) else None


def _plan(job: Job, slot: int, charges: tuple[Charge, ...], attempt: int = 1) -> Plan:
    return Plan(charges, modes.trial_id(job.study, slot, "", attempt))


def score_name(spec: Sweep) -> str:
    """Return the metric of a trial that Optuna is told."""
    return {"public": spec.score.metric, "one_shot": "sweep/synthetic_accuracy"}.get(spec.mode, "sweep/score")


def _images(job: Job, slot: int, context: Context, charges: tuple[Charge, ...]) -> Images:
    """Return the images of a trial: the given ones, or those of a synthesizer that is trained under its charges."""
    if job.generate_run is not None:
        return read_gen(job.store.fetch(job.generate_run, str(GEN)), job.card)[0]
    pretrained = _pretrained(job, context.config)
    start = started(context, job.sensitive, job.book.account(), pretrained)
    job.book.learn(start.public)
    plan = _plan(job, slot, charges, job.book.attempt(slot, _place(context.private)))
    account = job.book.reserve(plan.named(), "train")
    job.sensitive.remember(account.origins[-1])
    write_text(context.artifacts / LEDGER, closed(account, job.spec.epsilon_total or context.config.epsilon).text())
    trial.synthesize(context, job.sensitive, pretrained, plan, account)
    return read_gen(context.artifacts / GEN, job.card)[0]


def _place(folder: Path) -> str:
    """Return the name of the place that holds a trial's noise, made up when the trial begins there."""
    path = folder / "place.txt"
    if not path.is_file():
        write_text(path, secrets.token_hex(8))
    return path.read_text()


def _pretrained(job: Job, config: Config) -> Path | None:
    """Return the checkpoint of a pretraining on public images; trials that agree on it share one run."""
    if config.public is None:
        return None
    return job.store.fetch(run_pretrain(config, job.card, job.store, job.parent).run_id, str(FINAL))


def _classify(job: Job, slot: int, context: Context, images: Images, stop: trial.Stop) -> dict[str, float]:
    fitted = trial.fit(context, images, stop)
    if fitted is None:
        context.log.say(f"trial {slot}: given up, others were better at this epoch")
        return {}
    trial.keep(context.artifacts / trial.CLASSIFIER, fitted)
    metrics = {"sweep/synthetic_accuracy": fitted.synthetic}
    if job.charge is not None:
        n = job.sensitive.account().scopes["val"]
        metrics["sweep/score"] = 100 * _score(job, slot, context, fitted) / n
    if context.config.oracle:
        metrics["oracle/test_accuracy"] = tested(job, context, fitted.predict)
    return metrics


def _score(job: Job, slot: int, context: Context, fitted: trial.Fitted) -> float:
    """Return the noised count of a slot: the one it has released already, or a new one."""
    assert job.charge is not None
    name = modes.trial_id(job.study, slot, "score")
    earlier = job.book.released(name)
    if earlier is not None:
        context.log.say(f"trial {slot}: its score was released before the interruption and stays")
        return earlier
    charge = replace(job.charge, name=name)
    account = job.spend([charge])
    return job.book.publish(name, trial.release(context, job.sensitive, charge, account, fitted.predict))


def tested(job: Job, context: Context, predict: Callable[..., Any]) -> float:
    """Return the accuracy in percent on real test images: an un-noised figure, declared as such."""
    account = job.book.declare("utility", "test", "accuracy of the trained classifiers on real test images")
    yardstick = job.sensitive.yardstick("test", Ledger(account, context.private / "yardstick.json"))
    return accuracy(tester(yardstick)("trial", predict))


def _public(job: Job, context: Context) -> dict[str, float]:
    """Run every stage on the proxy as if it were sensitive, since the noise is part of what is tuned."""
    config, sensitive = context.config, job.sensitive
    plan = trial.training_plan(config, job.card, sensitive.account())
    account = trial.spent_on(plan, sensitive.account())
    trial.synthesize(context, sensitive, _pretrained(job, config), Plan(plan), account)
    images, _ = read_gen(context.artifacts / GEN, job.card)
    metrics = evaluate(trial.part(context, "evaluate"), sensitive, images, account, True, trial.OwnPurse())
    if job.spec.score.metric not in metrics:
        known = ", ".join(sorted(m for m in metrics if not m.startswith("privacy/")))
        raise UserError(f"sweep.score.metric={job.spec.score.metric} is not computed here; there are {known}")
    kept = {name: value for name, value in metrics.items() if not name.startswith("privacy/")}
    return {**kept, "privacy/epsilon_trial": 0.0}


def _price(job: Job, plan: tuple[Charge, ...], scored: bool) -> float:
    """Return what one trial costs by itself: the larger of its scopes."""
    account = job.sensitive.account()
    events = modes.events_of(plan, account, "train")
    if scored and job.charge is not None:
        events += modes.events_of([replace(job.charge, name="score")], account, "val")
    return accounting.spent(events, account.delta, account.accountant)


def _charge(memo: dict[str, Any]) -> Charge:
    return Charge(**{**memo, "base": ()})
