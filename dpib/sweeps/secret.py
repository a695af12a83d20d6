"""The best of a secret number of independent trials (mode random_stopping): nobody sees any other one.

All trials run in the launcher's own process, in its private folder, which is deleted when the sweep is done;
neither the tracking store nor a database hears of them. What they cost is one `random_stopping` event for each
scope, charged before the first of them begins. How long the search took is a side channel that tells about
the number of trials.
"""

import json
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from dpib.atomic import write_text
from dpib.data.synthetic import read_gen
from dpib.errors import UserError
from dpib.follower import SilentLog
from dpib.privacy.events import Charge, Plan
from dpib.privacy.ledger import Account
from dpib.privacy.rng import NoiseSource
from dpib.stages import course
from dpib.stages.context import Context
from dpib.stages.generate import GEN
from dpib.sweeps import modes, trial
from dpib.sweeps.job import Job, equal_plans
from dpib.sweeps.space import Point, independent


@dataclass(frozen=True)
class Winner:
    """The one trial that becomes visible, and where its files are."""

    point: Point
    score: float
    artifacts: Path


def search(job: Job, context: Context) -> Winner | None:
    """Charge the search, draw the number of trials, run them, and return the best; None if none was drawn.

    Raises:
        UserError: when trials would make different charges, which this mode cannot account for.
        BudgetError: when the cap does not allow the search; nothing was released.
    """
    points = _drawn(job, context)
    plan = _plan(job, points)
    each = job.spec.epsilon_total or job.config.epsilon
    account = job.book.account().model_copy(update={"epsilon": each})
    train, val = modes.stopping_charges(job.spec, account, plan, job.study)
    job.book.reserve(train, "train")
    job.spend([val])
    (score,) = val.base
    best: Winner | None = None
    for number, point in enumerate(points):
        found = _trial(job, context, (number, point), plan, score)
        if best is None or found.score > best.score:
            best = found
    return best


def _drawn(job: Job, context: Context) -> list[Point]:
    """Draw how many trials there are and where; drawn once, whatever happens to this process."""
    path = context.private / "drawn.json"
    if not path.is_file():
        count = job.spec.drawn.stopping().draw(NoiseSource(job.config.unsafe_noise_seed))
        points = independent(job.spec.space, "random", count, secrets.randbits(32))
        write_text(path, json.dumps(points))
    return list(json.loads(path.read_text()))


def _plan(job: Job, points: list[Point]) -> tuple[Charge, ...]:
    """Return the charges of one training, which must be the same wherever in the space it is."""
    if job.spec.kind == "classifier":
        return ()
    plan = equal_plans(job, points)
    if plan is None:
        raise UserError(
            "sweep.mode=random_stopping needs trials that make the same charges, and this space changes them: "
            "leave out what decides noise, sampling rate or steps, or use mode=compose"
        )
    return plan


def _trial(job: Job, context: Context, which: tuple[int, Point], plan: tuple[Charge, ...], score: Charge) -> Winner:
    number, point = which
    folder = context.private / "trials" / f"{number:04d}"
    finished = folder / "score.json"
    inside = replace(
        context,
        config=job.at(point),
        artifacts=folder / "artifacts",
        private=folder / "private",
        log=SilentLog(folder / "private" / "snapshot.safetensors", keeps=True),
    )
    if not finished.is_file():
        inside.artifacts.mkdir(parents=True, exist_ok=True)
        inside.private.mkdir(parents=True, exist_ok=True)
        write_text(finished, json.dumps(_run(job, inside, plan, score)))
    return Winner(point, float(json.loads(finished.read_text())), inside.artifacts)


def _run(job: Job, context: Context, plan: tuple[Charge, ...], score: Charge) -> float:
    """Return the noised count of one trial."""
    if job.generate_run is not None:
        gen = job.store.fetch(job.generate_run, str(GEN))
    else:
        # The search as a whole is charged already: what this training releases goes to an account of its own.
        account = trial.spent_on(plan, job.sensitive.account())
        job.book.learn(course.follow(context, job.sensitive, None, Plan(plan), account))
        gen = context.artifacts / GEN
    images, _ = read_gen(gen, job.card)
    fitted = trial.fit(context, images, lambda _step, _value: False)
    assert fitted is not None
    trial.keep(context.artifacts / trial.CLASSIFIER, fitted)
    # Likewise for its score.
    own = job.sensitive.account()
    scratch = Account.model_validate({**own.model_dump(), "epsilon": 1e12})
    return trial.release(context, job.sensitive, score, scratch, fitted.predict)
