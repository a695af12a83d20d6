"""Slots: nothing is lost when workers die, nothing is done twice, and what cannot work is given up."""

import os
import signal
import subprocess
import sys
import time

import optuna
import pytest

from dpib.errors import UserError
from dpib.privacy.ledger import Account
from dpib.sweeps.book import Book
from dpib.sweeps.study import ATTEMPTS, Study, shown, storage_url
from dpib.sweeps.worker import work_through

# A worker as the real ones are, with work that takes a moment: charge, release, return. One that is told to stops in
# the middle and says so, still alive to the others, for its killer to find it there however slow the machine is.
WORKER = """
import sys, time
from dpib.privacy.events import Charge
from dpib.sweeps.book import Book
from dpib.sweeps.study import Study
from dpib.sweeps.worker import work_through
url, worker, stop_after = sys.argv[1], int(sys.argv[2]), sys.argv[3]
study, book = Study.join(url, "s"), Book(url, "s")
def reach(stage):
    if stage == stop_after:
        print(stage, flush=True)
        while True:
            time.sleep(60)
    time.sleep(0.2)
def work(trial, slot):
    name = f"s/trial-{slot:03d}/score"
    x = trial.suggest_float("x", 0, 1)
    book.reserve([Charge(name, "pure", "", epsilon=0.1)], "val")
    reach("charged")
    value = book.publish(name, 1000 * worker + trial.number + x)
    reach("released")
    return value
work_through(study, work, lambda progress: None, lambda done: None)
"""


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'study.db'}"


def create(url, count, heartbeat=1):
    Study.create(url, "s", {"work": "test"}, [{}] * count, "maximize", heartbeat)
    book = Book(url, "s")
    book.begin(Account(dataset="toy", relation="zero_out", epsilon=9.0, delta=1e-5, scopes={"train": 9, "val": 9}))
    return Study.join(url, "s"), book


def quietly(study, work):
    return work_through(study, work, lambda _: None, lambda _: None)


def test_every_slot_is_done_once_and_a_second_worker_finds_nothing_left(url):
    study, _ = create(url, 5)
    done = []
    assert len(quietly(study, lambda trial, slot: done.append(slot) or float(slot)).done) == 5
    assert sorted(done) == [0, 1, 2, 3, 4]
    assert len(quietly(Study.join(url, "s"), lambda *_: pytest.fail("nothing is left to do")).done) == 5


def test_a_user_error_gives_up_its_slot_and_the_others_go_on(url):
    study, _ = create(url, 3)
    tried = []

    def work(trial, slot):
        tried.append(slot)
        if slot == 1:
            raise UserError("this width does not fit")
        return 1.0

    progress = quietly(study, work)
    assert (set(progress.done), set(progress.failed)) == ({0, 2}, {1})
    assert progress.failed[1].user_attrs["error"] == "this width does not fit"
    assert tried.count(1) == 1


def test_what_may_pass_is_tried_again_with_the_same_point_but_not_for_ever(url):
    study, _ = create(url, 2)
    seen = {0: [], 1: []}

    def work(trial, slot):
        seen[slot].append(trial.suggest_float("x", 0, 1))
        if slot == 0 or len(seen[1]) < 2:
            raise ConnectionError("the server is away")
        return 1.0

    progress = quietly(study, work)
    assert (set(progress.done), set(progress.failed)) == ({1}, {0})
    assert len(seen[0]) == ATTEMPTS
    assert len(seen[1]) == 2
    assert len(set(seen[0])) == 1


def test_a_slot_that_two_workers_repaired_is_done_once(url):
    study, _ = create(url, 1)
    study.optuna.enqueue_trial({}, user_attrs={"slot": 0, "attempt": 2})
    done = []
    progress = quietly(study, lambda trial, slot: done.append(slot) or 1.0)
    assert (done, len(progress.done)) == ([0], 1)
    # And a trial that Optuna made up because nothing was waiting is no work.
    assert study.begin(study.optuna.ask()) is None


def test_a_worker_that_died_between_taking_and_beginning_loses_nothing(url):
    study, _ = create(url, 1)
    study.optuna.ask()  # taken, and never heard of again
    time.sleep(3.2)
    assert len(quietly(study, lambda trial, slot: 1.0).done) == 1


def test_a_worker_that_was_thought_dead_goes_on_and_its_slot_is_done_by_whoever_has_it_now(url):
    study, _ = create(url, 2)
    slept = []

    def work(trial, slot):
        if slot == 0 and not slept:
            slept.append(slot)
            study.optuna.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # as others do to a dead worker's
        return float(slot)

    progress = quietly(study, work)
    assert {slot: trial.values for slot, trial in progress.done.items()} == {0: [0.0], 1: [1.0]}


def test_nothing_begins_after_a_stop(url):
    study, _ = create(url, 3)

    def work(trial, slot):
        study.stop("the cap is reached")
        return 1.0

    assert len(quietly(study, work).done) == 1
    assert study.stopped == "the cap is reached"


def kill_two_of_three(url, root, count):
    """Run three workers on `count` slots, kill two in the middle of their work, and return the study."""
    study, book = create(url, count, heartbeat=2)

    def worker(number, stop_after):
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", WORKER, url, str(number), stop_after]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    victims = [worker(i, stage) for i, stage in enumerate(("charged", "released"))]
    assert [victim.stdout.readline() for victim in victims] == ["charged\n", "released\n"]
    survivor = worker(2, "never")
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        time.sleep(1)
    assert survivor.wait() == 0
    for process in (*victims, survivor):
        process.stdout.close()
    return study, book


def check_nothing_lost_nothing_twice(study, book, count):
    progress = study.progress()
    assert sorted(progress.done) == list(range(count))
    assert sum(t.state == optuna.trial.TrialState.FAIL for t in study.optuna.get_trials()) == 2
    assert len(book.account().events) == count
    assert book.account().spent() == pytest.approx(0.1 * count, rel=1e-3)
    values = [trial.values for _, trial in sorted(progress.done.items())]
    assert values == [[book.released(f"s/trial-{slot:03d}/score")] for slot in range(count)]
    # What the second victim had released before it died is the score still: no second noise is drawn for it.
    assert [1000 < value < 2000 for (value,) in values].count(True) == 1


def test_killed_workers_lose_nothing_and_charge_nothing_twice(url, root):
    check_nothing_lost_nothing_twice(*kill_two_of_three(url, root, 6), 6)


def test_killed_workers_lose_nothing_on_postgresql_either(postgres, root):
    check_nothing_lost_nothing_twice(*kill_two_of_three(postgres, root, 6), 6)


def test_passwords_come_by_the_environment_only(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="set DPIB_STORAGE"):
        storage_url("postgresql://me:secret@db/studies")
    assert storage_url("postgresql://me@db/studies") == "postgresql://me@db/studies"
    assert storage_url(None) == storage_url(None) == f"sqlite:///{tmp_path / 'home' / 'sweeps.db'}"
    monkeypatch.setenv("DPIB_STORAGE", "postgresql://me:secret@db/studies")
    assert storage_url(None).endswith("secret@db/studies")
    assert "secret" not in shown(storage_url(None))


def test_a_missing_study_or_database_is_one_line(url):
    create(url, 1)
    with pytest.raises(UserError, match="no study 'other'"):
        Study.join(url, "other")
    with pytest.raises(UserError, match="cannot use the database"):
        Study.join("postgresql+nothing://db/x", "s")
