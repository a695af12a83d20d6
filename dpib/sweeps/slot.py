"""The work on one slot of a sweep, as a tracked run: train, draw, classify, score, and state what all that cost."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dpib.atomic import write_text
from dpib.chain import run_before
from dpib.config import Config
from dpib.config.kinds import KINDS
from dpib.data.synthetic import read_gen
from dpib.errors import UserError
from dpib.images import Images
from dpib.privacy import accounting
from dpib.privacy.events import Charge, Plan
from dpib.privacy.ledger import LEDGER
from dpib.runner import Result, Stage, execute
from dpib.spendings import TAG
from dpib.stages import course
from dpib.stages.context import Context
from dpib.stages.evaluate import evaluate
from dpib.stages.generate import GEN
from dpib.stages.query import asked
from dpib.stages.solving import training_plan
from dpib.stages.train import started
from dpib.sweeps import modes, trial
from dpib.sweeps.job import Job, closed, tested
from dpib.sweeps.space import Point, logged
from dpib.sweeps.spec import Sweep
from dpib.tracking import Run


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
        account = closed(job.purse().continued(job.book.account()), job.spec.epsilon_total or config.epsilon)
        trial.restate(context, account)
        if not account.tainted and spec.mode != "unaccounted":
            metrics["privacy/epsilon_trial"] = _price(job, charges, "sweep/score" in metrics)
        return metrics

    label = f"trial-{slot:03d}"
    private = spec.mode != "unaccounted"
    stage = Stage(
        KINDS["trial"],
        work,
        (job.study, label),
        identity=job.sensitive.identity,
        trusting=True,
        private=private,
        label=label,
    )
    result = execute(stage, config, job.card, job.store, job.parent)
    return result, result.metrics.get(score_name(spec))


def _training(job: Job, config: Config) -> tuple[Charge, ...]:
    """Return the calibrated charges of one trial's training on the sensitive images.

    Raises:
        UserError: when they differ from those of other trials where a sampler that learns proposed them.
    """
    if job.spec.kind == "classifier" or job.spec.mode == "public":
        return ()
    charges = training_plan(config, job.card, job.sensitive.account())
    if job.training is not None and charges != job.training:
        raise UserError(modes.UNEQUAL)
    return charges


def _plan(job: Job, slot: int, charges: tuple[Charge, ...], attempt: int = 1) -> Plan:
    return Plan(charges, modes.trial_id(job.study, slot, "", attempt))


def score_name(spec: Sweep) -> str:
    """Return the metric of a trial that Optuna is told."""
    return {"public": spec.score.metric, "one_shot": "sweep/synthetic_accuracy"}.get(spec.mode, "sweep/score")


def _images(job: Job, slot: int, context: Context, charges: tuple[Charge, ...]) -> Images:
    """Return the images of a trial: the given ones, or those of a synthesizer that is trained under its charges."""
    if job.generate_run is not None:
        return read_gen(job.store.fetch(job.generate_run, str(GEN)), job.card)[0]
    start = _start(job, context.config, charges)
    if start is not None:
        job.book.learn(started(context, job.sensitive, job.sensitive.account(), start).public)
    plan = _plan(job, slot, charges, job.book.attempt(slot, context.named(secrets.token_hex(8))))
    account = job.book.reserve(plan.named(), "train")
    job.sensitive.remember(account.origins[-1])
    write_text(context.artifacts / LEDGER, closed(account, job.spec.epsilon_total or context.config.epsilon).text())
    job.book.learn(course.follow(context, job.sensitive, start, plan, account))
    return read_gen(context.artifacts / GEN, job.card)[0]


def _start(job: Job, config: Config, charges: Sequence[Charge]) -> Path | None:
    """Return what a trial trains from: a pretraining on public images, which trials that agree on it share.

    A trial that makes queries of its own pretrains on its own.
    """
    if asked(charges):
        return None
    return run_before(config, job.card, job.store, job.parent).start().path(job.store)


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


def _public(job: Job, context: Context) -> dict[str, float]:
    """Run every stage on the proxy as if it were sensitive, since the noise is part of what is tuned."""
    config, sensitive = context.config, job.sensitive
    plan = training_plan(config, job.card, sensitive.account())
    account = trial.spent_on(plan, sensitive.account())
    course.follow(context, sensitive, _start(job, config, plan), Plan(plan), account)
    images, _ = read_gen(context.artifacts / GEN, job.card)
    metrics = evaluate(course.inside(context, "evaluate"), sensitive, images, account, True, trial.OwnPurse())
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
