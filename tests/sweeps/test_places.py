"""A charge is bound to the place that holds its noise, and every trial states what its sweep has spent."""

import json

import mlflow
import numpy as np
import pytest

from dpib.errors import UserError
from dpib.pipeline import Start, run_evaluate, run_train
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account
from dpib.stages.generate import GEN
from dpib.stages.pretrain import FINAL
from dpib.sweeps import slot as slots
from dpib.sweeps.book import Book
from dpib.sweeps.launch import run_sweep
from tests.sweeps.test_sweeps import base, children, images, ledger, order, store  # noqa: F401 - fixtures

COMPOSE = {"mode": "compose", "trials": 2}


def test_a_place_keeps_its_number_and_a_new_one_takes_the_next(tmp_path):
    book = Book(f"sqlite:///{tmp_path / 'book.db'}", "s")
    book.begin(Account(dataset="toy", relation="zero_out", epsilon=1.0, delta=1e-5, scopes={"train": 10}))
    assert [book.attempt(0, place) for place in ("a", "b", "a", "b", "c")] == [1, 2, 1, 2, 3]
    assert book.attempt(1, "c") == 1
    with pytest.raises(UserError, match="over the budget"):
        book.allows([Charge("x", "pure", "", epsilon=2.0)], "train")
    assert book.account().events == []


@pytest.fixture
def dies_once(monkeypatch, tmp_path):
    """Make the first trial fail after its training; what is left of it stays here, or on another machine."""

    def arrange(elsewhere):
        original, died = slots._classify, []

        def classify(*arguments):
            if not died:
                died.append(True)
                if elsewhere:
                    monkeypatch.setenv("DPIB_HOME", str(tmp_path / "another machine"))
                raise ConnectionError("the worker is gone")
            return original(*arguments)

        monkeypatch.setattr(slots, "_classify", classify)

    return arrange


def drawn(monkeypatch):
    """Return a list that grows by the number of noise draws of each training."""
    from dpib.privacy.vault import Vault

    made, original = [], Vault.release_sum

    def counted(self, name, feature):
        fresh = self._finished(name) is None
        found = original(self, name, feature)
        made.extend([name] * fresh)
        return found

    monkeypatch.setattr(Vault, "release_sum", counted)
    return made


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_training_that_is_begun_again_elsewhere_is_charged_again(order, store, dies_once, monkeypatch, elsewhere):  # noqa: F811
    made = drawn(monkeypatch)
    dies_once(elsewhere)
    found = run_sweep(order(**COMPOSE, epsilon_total=40.0), store)
    trained = [event.id for event in ledger(store, found.run_id).events if event.scope == "train"]
    assert len(trained) == len(made) == (3 if elsewhere else 2)
    assert sum("/attempt-2/" in name for name in trained) == elsewhere


def test_an_attempt_elsewhere_that_the_cap_does_not_hold_is_refused(order, store, dies_once, monkeypatch):  # noqa: F811
    made = drawn(monkeypatch)
    dies_once(True)
    with pytest.raises(UserError, match=r"no trial finished: .*attempt-2.* over the budget"):
        run_sweep(order(mode="compose", trials=1, epsilon_total=11.0), store)
    assert len(made) == 1


def test_every_trial_states_all_that_its_sweep_had_spent_and_the_winner_all_of_it(order, base, store):  # noqa: F811
    found = run_sweep(order(**COMPOSE, epsilon_total=40.0), store)
    whole = ledger(store, found.run_id)
    assert len(whole.events) == 4  # two trainings, two scores
    last = max(children(found.run_id), key=lambda run: run.info.start_time)
    assert {e.id for e in ledger(store, last.info.run_id).events} == {e.id for e in whole.events}
    for run in (last.info.run_id, found.run_id):
        file = store.fetch(run, str(FINAL))
        with pytest.raises(UserError, match="already spent epsilon"):
            run_train(base[0].model_copy(update={"epsilon": 11.0}), base[1], store, Start(file=file))
        with np.load(store.fetch(run, str(GEN))) as content:
            stated = json.loads(str(content["statement"]))
        assert len(stated["ledger"]["events"]) == 4
        told = store.fetch(run, "privacy/statement.md").read_text()
        assert all(event.id in told for event in whole.events)
    # Judging the winner's images again adds to what the scores have spent on the same held-out images.
    judged = run_evaluate(*base, store, store.fetch(found.run_id, str(GEN)), found.run_id)
    assert judged.metrics["privacy/epsilon_selection"] > whole.spent_by_scope()["val"] + 9.9


def test_a_sampler_that_learns_may_not_choose_what_a_training_charges(order, store):  # noqa: F811
    space = {"train.noise_multiplier": {"low": 5.0, "high": 9.0}}
    with pytest.raises(UserError, match="the sampler chooses the next trial by earlier scores"):
        run_sweep(order(**COMPOSE, epsilon_total=90.0, space=space, sampler="tpe"), store)
    assert run_sweep(order(**COMPOSE, epsilon_total=90.0, space=space), store).metrics["sweep/trials"] == 2


def test_random_stopping_tells_neither_its_time_nor_a_boundless_cap(order, base, store, tmp_path):  # noqa: F811
    found = run_sweep(order(mode="random_stopping", drawn={"mean": 2.0}), store)
    run = mlflow.get_run(found.run_id)
    assert run.info.end_time == run.info.start_time
    assert not any(name.startswith("time/") for name in run.data.metrics)
    history = [m for name in run.data.metrics for m in mlflow.MlflowClient().get_metric_history(found.run_id, name)]
    assert {metric.timestamp for metric in history} == {run.info.start_time}
    assert int(run.data.tags["dpib.heartbeat"]) == run.info.start_time // 1000
    gen = store.fetch(found.run_id, str(GEN))
    with np.load(gen) as content:
        account = Account.parse(json.dumps(json.loads(str(content["statement"]))["ledger"]))
    assert account.spent() == pytest.approx(account.epsilon)
    judged = run_evaluate(*base, store, gen, "the winner's images")
    assert judged.metrics["privacy/epsilon_selection"] > account.spent_by_scope()["val"]
