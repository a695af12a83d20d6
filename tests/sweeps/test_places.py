"""A charge is bound to the place that holds its noise, and every trial states what its sweep has spent."""

import json
from dataclasses import replace

import mlflow
import numpy as np
import pytest

from dpib.chain import Start, run_train
from dpib.errors import UserError
from dpib.pipeline import run_evaluate
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account
from dpib.section import validated
from dpib.sensitive import Sensitive
from dpib.stages.build import FINAL
from dpib.stages.generate import GEN
from dpib.sweeps import job as jobs
from dpib.sweeps import slot as slots
from dpib.sweeps.book import Book
from dpib.sweeps.launch import run_sweep
from dpib.sweeps.spec import Sweep
from tests.sweeps.test_sweeps import base, children, images, ledger, order, store  # noqa: F401 - fixtures

COMPOSE = {"mode": "compose", "trials": 2}
SPEC = validated(Sweep, {"name": "s", "kind": "synthesizer", "trials": 2, "epsilon_total": 9.0, "mode": "compose",
                         "space": {"train.lr": {"low": 0.1, "high": 0.2}}}, "test")  # fmt: skip


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


def test_a_sweep_that_is_continued_in_another_database_is_refused(order, store, tmp_path, monkeypatch):  # noqa: F811
    original, died = slots._classify, []

    def dies(*arguments):
        if not died:
            died.append(True)
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(slots, "_classify", dies)
    asked = order(**COMPOSE, epsilon_total=40.0)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(asked, store)
    with pytest.raises(UserError, match="which was begun in another one: give that one as storage"):
        run_sweep(replace(asked, url=f"sqlite:///{tmp_path / 'another.db'}"), store)
    assert len(ledger(store, run_sweep(asked, store).run_id).events) == 4


@pytest.mark.parametrize("known", [True, False])
def test_a_worker_with_images_that_nobody_can_compare_makes_every_event_count_for_all(tmp_path, known, base):  # noqa: F811
    config, card = base
    url = f"sqlite:///{tmp_path / 'book.db'}"
    sensitive = Sensitive(config, card)
    account = sensitive.account().model_copy(
        update={"origins": ["o"], "images": sensitive.account().images if known else None}
    )
    Book(url, "s").begin(account)
    job = jobs.Job(SPEC, config, card, Remote(), Book(url, "s"), "s", "parent", sensitive)
    jobs.Job.recall(job.memo(), url, "s", Remote())
    assert Book(url, "s").account().disjoint == known


class Remote:
    uri = "none"


def test_a_search_in_secret_shows_its_ledger_before_its_winner(order, images, store, monkeypatch):  # noqa: F811
    from dpib.sweeps import winner

    monkeypatch.setattr(winner, "_end", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_sweep(order(images, mode="random_stopping", drawn={"mean": 2.0}), store)
    (run,) = [
        r
        for r in mlflow.search_runs(search_all_experiments=True, output_format="list")
        if r.info.run_name.startswith("sweep")
    ]
    assert [e.kind for e in ledger(store, run.info.run_id).events if e.scope == "val"] == ["random_stopping"]


def test_a_public_sweep_says_what_it_took_as_public(order, store):  # noqa: F811
    found = run_sweep(order(mode="public", proxy="glyphs_28", final=True, trials=1), store)
    assert [source.name for source in ledger(store, found.run_id).public] == ["glyphs_28"]
