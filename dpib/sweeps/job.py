"""A sweep as its workers know it, and the work on one of its slots as a tracked run."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from dpib.config import Config, from_text, overlaid
from dpib.config.fingerprint import source_digest
from dpib.data.catalog import Card
from dpib.data.synthetic import read_gen
from dpib.errors import UserError
from dpib.images import Images
from dpib.metrics.utility import accuracy
from dpib.pipeline import run_pretrain
from dpib.privacy import accounting
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account, Ledger
from dpib.runner import Result, Stage, execute
from dpib.section import dump_yaml
from dpib.sensitive import Sensitive
from dpib.stages.context import Context
from dpib.stages.evaluate import evaluate, tester
from dpib.stages.generate import GEN
from dpib.stages.pretrain import FINAL
from dpib.sweeps import modes, trial
from dpib.sweeps.book import Book
from dpib.sweeps.space import Point, changes, logged
from dpib.sweeps.spec import Sweep
from dpib.tracking import Run, Store


@dataclass(frozen=True)
class Job:
    """One sweep: what its trials share.

    `config` and `card` are those of the proxy in mode public; `gen` is the synthetic set of a classifier
    sweep; `charge` is the price of one score, or None where none is released per trial.
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
    charge: Charge | None = None

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
            "charge": None if self.charge is None else asdict(self.charge),
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
        charge = None if memo["charge"] is None else Charge(**{**memo["charge"], "base": ()})
        book = Book(url, study)
        known = (memo["parent"], Sensitive(config, card), memo["generate_run"], charge)
        return cls(spec, config, card, store, book, study, *known)

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
    plan: tuple[Charge, ...] = ()
    if spec.kind == "synthesizer" and spec.mode != "public":
        plan = trial.training_plan(config, job.card, job.sensitive.account())
        named = [replace(c, name=modes.trial_id(job.study, slot, c.name)) for c in plan]
        job.book.reserve(named, "train")

    def work(context: Context, run: Run | None) -> dict[str, float]:
        assert run is not None
        begun(run.id)
        run.params(logged(point, spec.space), "sweep.")
        run.tag({"dpib.sweep": job.parent, "dpib.sweep_mode": spec.mode})
        if spec.mode == "public":
            return _public(job, context)
        images = _images(job, context, plan)
        metrics = _classify(job, slot, context, images, stop)
        if not job.book.account().tainted and spec.mode != "unaccounted":
            metrics["privacy/epsilon_trial"] = _price(job, plan, "sweep/score" in metrics)
        return metrics

    label = f"trial-{slot:03d}"
    private = spec.mode != "unaccounted"
    stage = Stage("trial", work, (job.study, label), private=private, private_snapshot=True, label=label)
    result = execute(stage, config, job.card, job.store, job.parent)
    return result, result.metrics.get(score_name(spec))


def score_name(spec: Sweep) -> str:
    """Return the metric of a trial that Optuna is told."""
    return {"public": spec.score.metric, "one_shot": "sweep/synthetic_accuracy"}.get(spec.mode, "sweep/score")


def _images(job: Job, context: Context, plan: tuple[Charge, ...]) -> Images:
    if job.generate_run is not None:
        gen = job.store.fetch(job.generate_run, str(GEN))
    else:
        trial.synthesize(context, job.sensitive, _pretrained(job, context.config), plan, job.book.account())
        gen = context.artifacts / GEN
    return read_gen(gen, job.card)[0]


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
    account = job.book.reserve([charge], "val")
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
    account = Account.model_validate(
        {**sensitive.account().model_dump(), "events": modes.events_of(plan, sensitive.account(), "train")}
    )
    trial.synthesize(context, sensitive, _pretrained(job, config), plan, account)
    images, _ = read_gen(context.artifacts / GEN, job.card)
    metrics = evaluate(trial.part(context, "evaluate"), sensitive, images, account, made_here=True)
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
