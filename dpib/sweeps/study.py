"""Work in slots, shared by any number of workers through an Optuna study in a database.

A slot is one trial of a sweep, or one cell of a suite. It is begun again when its worker is killed (its
heartbeat stops) or trips over something that may pass, and given up when it fails for a reason of its own.
Slots, not Optuna's trials, are counted: one slot may take several of those.
"""

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from dpib.data.catalog import home
from dpib.errors import UserError
from dpib.sweeps.space import Point

ATTEMPTS = 5
Direction = Literal["minimize", "maximize"]
_MEMO = "dpib"
_STOPPED = "dpib.stopped"

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass
class Progress:
    """Slots by what has become of them; `lost` ones wait to be begun again."""

    done: dict[int, FrozenTrial] = field(default_factory=dict)
    failed: dict[int, FrozenTrial] = field(default_factory=dict)
    active: dict[int, FrozenTrial] = field(default_factory=dict)
    lost: dict[int, FrozenTrial] = field(default_factory=dict)
    waiting: int = 0

    @property
    def total(self) -> int:
        """The number of slots."""
        return len(self.done) + len(self.failed) + len(self.active) + len(self.lost)


class Study:
    """One study: a memo for the workers, and slots of work."""

    def __init__(self, storage: RDBStorage, name: str, url: str) -> None:
        self.url = url
        self.name = name
        self.storage = storage
        self.optuna = optuna.load_study(study_name=name, storage=storage)

    @classmethod
    def create(
        cls, url: str, name: str, memo: dict[str, Any], points: Sequence[Point], direction: Direction, heartbeat: int
    ) -> Self:
        """Return the study of that name, with one slot per point; an empty point is left to the sampler.

        An existing study is continued.
        """
        with _explained(url):
            storage = _open(url, heartbeat)
            study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
        known = {trial.user_attrs.get("slot") for trial in study.get_trials(deepcopy=False)}
        for slot, point in enumerate(points):
            if slot not in known:
                study.enqueue_trial(point, user_attrs={"slot": slot, "attempt": 1})
        study.set_user_attr(_MEMO, json.dumps({**memo, "heartbeat": heartbeat}))
        return cls(storage, name, url)

    @classmethod
    def join(cls, url: str, name: str) -> Self:
        """Return an existing study, for a worker.

        Raises:
            UserError: when the database has no such study.
        """
        try:
            with _explained(url):
                found = optuna.load_study(study_name=name, storage=_open(url, None))
        except KeyError:
            raise UserError(f"no study {name!r} in {shown(url)}: start the sweep first") from None
        heartbeat = json.loads(found.user_attrs[_MEMO])["heartbeat"]
        return cls(_open(url, heartbeat), name, url)

    @property
    def memo(self) -> dict[str, Any]:
        """What the launcher left for the workers."""
        return dict(json.loads(self.optuna.user_attrs[_MEMO]))

    @property
    def stopped(self) -> str | None:
        """Why no further slot may begin, or None."""
        reason = self.optuna.user_attrs.get(_STOPPED)
        return None if reason is None else str(reason)

    def stop(self, reason: str) -> None:
        """Let no further slot begin."""
        self.optuna.set_user_attr(_STOPPED, reason)

    def progress(self) -> Progress:
        """Return what has become of every slot."""
        trials: dict[int, list[FrozenTrial]] = {}
        for trial in self.optuna.get_trials(deepcopy=False):
            if "slot" in trial.user_attrs and "surplus" not in trial.user_attrs:
                trials.setdefault(trial.user_attrs["slot"], []).append(trial)
        found = Progress()
        for slot, group in sorted(trials.items()):
            by_state = {trial.state: trial for trial in reversed(group)}
            if ended := by_state.get(TrialState.COMPLETE) or by_state.get(TrialState.PRUNED):
                found.done[slot] = ended
            elif active := by_state.get(TrialState.RUNNING) or by_state.get(TrialState.WAITING):
                found.active[slot] = active
                found.waiting += TrialState.WAITING in by_state
            elif any("error" in trial.user_attrs for trial in group) or len(group) >= ATTEMPTS:
                found.failed[slot] = group[-1]
            else:
                found.lost[slot] = group[-1]
        return found

    def repair(self) -> None:
        """Begin again what a worker that is gone had begun."""
        with _quiet():
            optuna.storages.fail_stale_trials(self.optuna)
        self._fail_stillborn()
        for slot, trial in self.progress().lost.items():
            attrs = {"slot": slot, "attempt": trial.user_attrs["attempt"] + 1, "runs": trial.user_attrs.get("runs", [])}
            self.optuna.enqueue_trial(trial.params, user_attrs=attrs)

    def begin(self, trial: optuna.Trial) -> int | None:
        """Return the slot of a trial that has just been taken, or None if it is not needed.

        Two workers may repair the same slot at once, and a worker that finds nothing waiting makes Optuna
        invent a trial: neither is work.
        """
        slot = trial.user_attrs.get("slot")
        others = [t for t in self.optuna.get_trials(deepcopy=False) if t.user_attrs.get("slot") == slot]
        live = (TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE, TrialState.PRUNED)
        earlier = [t for t in others if t.number < trial.number and t.state in live and "surplus" not in t.user_attrs]
        if slot is None or earlier or self.stopped:
            trial.set_user_attr("surplus", True)
            return None
        self.storage.record_heartbeat(trial._trial_id)
        trial.set_user_attr("begun", True)
        return int(slot)

    def taken_away(self, trial: optuna.Trial) -> bool:
        """Return whether another worker has failed a trial that was being worked on here."""
        return self.storage.get_trial(trial._trial_id).state == TrialState.FAIL

    def _fail_stillborn(self) -> None:
        """Fail what a worker took and never began: Optuna's heartbeat does not see it."""
        grace = timedelta(seconds=3 * (self.storage.heartbeat_interval or 0))
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            begun = trial.user_attrs.get("begun") or trial.user_attrs.get("surplus")
            if not begun and trial.datetime_start and datetime.now() - trial.datetime_start > grace:
                try:
                    self.optuna.tell(trial.number, state=TrialState.FAIL)
                except (ValueError, RuntimeError):
                    continue  # another worker was faster


def storage_url(given: str | None) -> str:
    """Return the database of studies: the given one, else DPIB_STORAGE, else a file in DPIB_HOME.

    Raises:
        UserError: for a password on the command line, which is logged and seen by every user of the machine.
    """
    if given is not None:
        if make_url(given).password:
            raise UserError("a password on the command line ends up in logs: set DPIB_STORAGE=<address> instead")
        return given
    if os.environ.get("DPIB_STORAGE"):
        return os.environ["DPIB_STORAGE"]
    home().mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{(home() / 'sweeps.db').resolve()}"


def shown(url: str) -> str:
    """Return an address without its password."""
    return make_url(url).render_as_string(hide_password=True)


def save_plots(study: Study, folder: Path) -> list[str]:
    """Write Optuna's pictures of a finished study to `folder`; return the names of those that it could draw."""
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as drawn

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name in ("optimization_history", "param_importances", "parallel_coordinate", "slice"):
        try:
            with _quiet():
                getattr(drawn, f"plot_{name}")(study.optuna)
        except (ValueError, RuntimeError):
            pyplot.close("all")
            continue  # too few trials, or all alike: there is nothing to draw
        pyplot.gcf().set_size_inches(9, 5)
        pyplot.savefig(folder / f"{name}.png", dpi=100, bbox_inches="tight")
        pyplot.close("all")
        made.append(name)
    return made


def importances(study: Study) -> dict[str, float]:
    """Return how much each dimension explains of the scores; empty where there are too few trials."""
    try:
        with _quiet():
            return dict(optuna.importance.get_param_importances(study.optuna))
    except (ValueError, RuntimeError):
        return {}


def _open(url: str, heartbeat: int | None) -> RDBStorage:
    # A worker on the same file waits for the others instead of failing.
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    with _quiet():
        return RDBStorage(
            url,
            engine_kwargs=options,
            heartbeat_interval=heartbeat,
            grace_period=None if heartbeat is None else 3 * heartbeat,
        )


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, ImportError, optuna.exceptions.StorageInternalError) as error:
        raise UserError(f"cannot use the database {shown(url)}: {str(error).splitlines()[0]}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
