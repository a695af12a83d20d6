"""The best of a secret number of trials: one event, one winner, and nothing of the others."""

import mlflow
import pytest

from dpib.errors import UserError
from dpib.privacy.stopping import Stopping
from dpib.sweeps import secret
from dpib.sweeps.launch import run_sweep
from tests.sweeps.test_sweeps import base, children, images, ledger, order, store  # noqa: F401 - fixtures


def test_random_stopping_shows_the_winner_and_nothing_else(order, images, store, tmp_path, monkeypatch):  # noqa: F811
    ran, rates = [], []
    original = secret._run

    def run(job, context, *arguments):
        rates.append(context.config.eval.schedule.lr)
        ran.append(original(job, context, *arguments))
        return ran[-1]

    monkeypatch.setattr(secret, "_run", run)
    monkeypatch.setattr(Stopping, "draw", lambda self, noise: 3)
    asked = order(images, mode="random_stopping", drawn={"mean": 3.0})
    found = run_sweep(asked, store)
    account = ledger(store, found.run_id)
    (event,) = [e for e in account.events if e.scope == "val"]
    assert (event.kind, event.stopping) == ("random_stopping", asked.spec.drawn.stopping())
    assert 9.98 < found.metrics["privacy/epsilon_selection"] <= 10
    assert len(set(rates)) == 3
    assert found.metrics["sweep/best_value"] == pytest.approx(100 * max(ran) / 150)
    best = mlflow.get_run(found.run_id).data.params["best.eval.schedule.lr"]
    assert float(best) == rates[ran.index(max(ran))]
    assert "sweep/trials" not in found.metrics
    assert children(found.run_id) == []
    assert not (tmp_path / "sweeps.db").exists()
    assert not list((tmp_path / "home" / "work").iterdir())


def test_random_stopping_of_synthesizers_charges_training_once(order, store):  # noqa: F811
    found = run_sweep(order(mode="random_stopping", drawn={"mean": 2.0}), store)
    (event,) = [e for e in ledger(store, found.run_id).events if e.scope == "train"]
    assert event.kind == "random_stopping"
    assert [e.kind for e in event.base] == ["gaussian"]
    assert 10 < found.metrics["privacy/epsilon_train"] < 30
    assert found.metrics["privacy/epsilon"] == pytest.approx(found.metrics["privacy/epsilon_train"], rel=1e-2)


def test_random_stopping_refuses_trials_that_charge_differently(order, store):  # noqa: F811
    space = {"features.dimension": {"choices": [100, 200]}, "train.noise_multiplier": {"low": 1.0, "high": 2.0}}
    with pytest.raises(UserError, match="trials that make the same charges"):
        run_sweep(order(mode="random_stopping", space=space), store)
