"""One worker of a sweep: which runs it closes, when it gives up or stops, and what it must not swallow."""

from types import SimpleNamespace

import pytest

from dpib.errors import UserError
from dpib.privacy.ledger import BudgetError
from dpib.runner import Result
from dpib.section import validated
from dpib.sweeps import worker
from dpib.sweeps.spec import Sweep
from dpib.sweeps.study import Study

SPACE = {"eval.schedule.lr": {"low": 0.001, "high": 0.1, "log": True}}


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """Return a function that works through a sweep whose trials are `trial(slot, point, stop, begun)`."""
    url = f"sqlite:///{tmp_path / 'study.db'}"

    def sweep(trial, trials=3, **keys):
        tree = {"name": "t", "kind": "classifier", "mode": "compose", "trials": trials, "space": SPACE, **keys}
        closed, study = [], Study.create(url, "s", {}, [{}] * trials, "maximize", 20)
        job = SimpleNamespace(spec=validated(Sweep, tree, "test"), store=SimpleNamespace(close=closed.append))
        monkeypatch.setattr(worker, "run_trial", lambda job, *arguments: trial(*arguments))
        return worker.sweep_worker(study, job, 0), study, closed

    return sweep


def test_a_trial_that_is_begun_again_in_another_run_closes_the_earlier_ones(swept):
    begun_runs = iter(["a", "b", "b", "c"])

    def trial(slot, point, stop, begun):
        run = next(begun_runs)
        begun(run)
        if run != "c":
            raise ConnectionError("the server is away")
        return Result(run, {}), 1.0

    progress, _, closed = swept(trial, trials=1)
    assert progress.done[0].user_attrs["run"] == "c"
    assert closed[0] == "a"
    assert set(closed) == {"a", "b"}
    assert closed.count("b") == 1  # not while it was the one that went on


def test_trials_without_a_score_are_done_and_given_up(swept):
    def trial(slot, point, stop, begun):
        if slot == 1:
            raise UserError("too wide")
        return Result(f"run {slot}", {}), None if slot == 0 else 2.0

    progress, _, _ = swept(trial)
    assert {slot: found.values for slot, found in progress.done.items()} == {0: None, 2: [2.0]}
    assert progress.done[0].user_attrs["run"] == "run 0"
    assert progress.failed[1].user_attrs["error"] == "too wide"


def test_the_cap_stops_the_sweep_and_not_its_trial_alone(swept):
    def trial(slot, point, stop, begun):
        if slot == 1:
            raise BudgetError("over the budget")
        return Result("run", {}), 1.0

    progress, study, _ = swept(trial, trials=4)
    assert study.stopped == "over the budget"
    assert (set(progress.done), set(progress.failed), set(progress.active)) == ({0}, {1}, {2, 3})


@pytest.mark.parametrize(("pruner", "given_up"), [("median", True), (None, False)])
def test_the_pruner_that_was_asked_for_gives_up_what_is_worse(swept, pruner, given_up):
    stopped = {}

    def trial(slot, point, stop, begun):
        told = [stop(step, 0.0 if slot == 5 else 1.0) for step in range(4)]
        stopped[slot] = any(told)
        return Result("run", {}), None if stopped[slot] else 1.0

    swept(trial, trials=6, pruner=pruner)
    assert stopped == {slot: given_up and slot == 5 for slot in range(6)}


def test_a_fault_of_the_study_itself_is_not_taken_for_a_lost_slot(swept, monkeypatch):
    def breaks(*_, **__):
        raise ValueError("the study is broken")

    monkeypatch.setattr("optuna.study.Study.optimize", breaks)
    with pytest.raises(ValueError, match="the study is broken"):
        swept(lambda *_: pytest.fail("nothing was begun"))
