"""A worker: takes one slot after the other until none is left. Any number of them, on any machines."""

import sys
import time
import warnings
from collections.abc import Callable

import optuna

from dpib import seeding
from dpib.errors import UserError
from dpib.privacy.ledger import BudgetError
from dpib.runner import Result
from dpib.sweeps.job import Job
from dpib.sweeps.slot import run_trial
from dpib.sweeps.space import suggest
from dpib.sweeps.spec import Sweep
from dpib.sweeps.study import Progress, Study
from dpib.workspace import Busy

Work = Callable[[optuna.Trial, int], float]
"""Does the work of one slot and returns its score."""
_STARTUP = 8


def work_through(study: Study, work: Work, tell: Callable[[Progress], None], seed: Callable[[int], None]) -> Progress:
    """Work until every slot is done or given up, waiting for other workers; return how it ended.

    Args:
        study: the slots.
        work: what to do with one.
        tell: told the progress after every slot of this worker.
        seed: told how many slots were done before each of this worker's.
    """
    while True:
        study.repair()
        progress = study.progress()
        if study.stopped or not (progress.active or progress.lost):
            return progress
        if not progress.waiting:
            time.sleep(1)  # others are at work; should one die, its slot comes back
            continue
        seed(progress.total - progress.waiting)
        _one(study, work)
        tell(study.progress())


def sweep_worker(study: Study, job: Job, worker: int) -> Progress:
    """Work on the trials of a sweep."""
    spec = job.spec
    study.optuna.pruner = _pruner(spec)

    def work(found: optuna.Trial, slot: int) -> float:
        point = suggest(found, spec.space)
        earlier = list(found.user_attrs.get("runs", []))

        def begun(run_id: str) -> None:
            found.set_user_attr("runs", [*earlier, run_id])
            for other in set(earlier) - {run_id}:
                job.store.close(other)

        def stop(step: int, value: float) -> bool:
            if spec.pruner is None:
                return False
            found.report(value, step)
            return found.should_prune()

        try:
            result, score = run_trial(job, slot, point, stop, begun)
        except BudgetError as error:
            study.stop(str(error))
            raise
        found.set_user_attr("run", result.run_id)
        if score is None:
            raise optuna.TrialPruned
        return score

    def tell(progress: Progress) -> None:
        print(f"sweep: {len(progress.done)} of {progress.total} trials done", file=sys.stderr, flush=True)

    def seed(done: int) -> None:
        # Two workers must not propose the same trial, hence their numbers in the seed.
        study.optuna.sampler = _sampler(spec, seeding.derive(spec.seed, "sampler", worker, done))

    return work_through(study, work, tell, seed)


def startup(spec: Sweep) -> int:
    """Return how many trials of a sampler that learns are drawn at random first."""
    return min(_STARTUP, max(1, spec.trials // 2))


def wait_for(action: Callable[[], Result]) -> Result:
    """Return `action()`, waiting while another process is at work on a stage that it shares with it."""
    while True:
        try:
            return action()
        except Busy:
            time.sleep(2)


def _one(study: Study, work: Work) -> None:
    """Take one slot. Where this worker was thought dead meanwhile (a machine that slept), go on with the next."""
    taken: list[optuna.Trial] = []
    try:
        study.optuna.optimize(_guarded(study, work, taken), n_trials=1, catch=(Exception,))
    except (AssertionError, ValueError, optuna.exceptions.UpdateFinishedTrialError):
        # Optuna has no one exception for a trial that others have failed while it ran.
        if not (taken and study.taken_away(taken[0])):
            raise
        print("this worker's slot was taken for dead and given to another", file=sys.stderr, flush=True)


def _guarded(study: Study, work: Work, taken: list[optuna.Trial]) -> Callable[[optuna.Trial], float]:
    def objective(found: optuna.Trial) -> float:
        taken.append(found)
        slot = study.begin(found)
        if slot is None:
            raise optuna.TrialPruned
        try:
            return float(work(found, slot))
        except optuna.TrialPruned:
            raise
        except UserError as error:
            found.set_user_attr("error", str(error))  # for good: it would fail again
            print(f"slot {slot} failed: {error}", file=sys.stderr, flush=True)
            raise
        except Exception as error:
            print(f"slot {slot} tripped: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            raise

    return objective


def _sampler(spec: Sweep, seed: int) -> optuna.samplers.BaseSampler:
    seed %= 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if spec.sampler == "tpe":
            return optuna.samplers.TPESampler(n_startup_trials=startup(spec), constant_liar=True, seed=seed)
        if spec.sampler == "gp":
            return optuna.samplers.GPSampler(n_startup_trials=startup(spec), seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)  # every trial was drawn beforehand


def _pruner(spec: Sweep) -> optuna.pruners.BasePruner:
    if spec.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
    if spec.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner()
    return optuna.pruners.NopPruner()
