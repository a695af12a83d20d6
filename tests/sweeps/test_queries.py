"""Sweeps of methods that query before they pretrain: every trial asks for itself, and what it asked is charged."""

from dataclasses import replace

import mlflow
import pytest

from dpib.config import compose
from dpib.privacy.ledger import Account
from dpib.privacy.rng import NoiseSource
from dpib.privacy.stopping import Stopping
from dpib.privacy.vault import Vault
from dpib.sweeps.launch import run_sweep
from tests.conftest import PRIVIMAGE, PRO, TINY_DIFFUSION
from tests.sweeps.test_sweeps import ONE, base, children, ledger, order, store  # noqa: F401 - fixtures


@pytest.fixture
def pro(order, tiny):  # noqa: F811
    """Return a maker of sweeps over a small FETA-Pro, or another recipe."""

    def make(recipe=PRO, **keys):
        common = {k: v for k, v in tiny.items() if k.startswith(("generate", "eval"))}
        config, card = compose({**common, **ONE, **TINY_DIFFUSION, **recipe, "epsilon": "10", "accountant": "rdp"})
        return replace(order(**keys), config=config, card=card)

    return make


@pytest.fixture
def drawn(monkeypatch):
    """Return the releases that were drawn, by name and index, in order."""
    found, sound = [], Vault._finish

    def finish(self, name, value, index=0):
        found.append((name, index))
        return sound(self, name, value, index)

    monkeypatch.setattr(Vault, "_finish", finish)
    return found


def test_every_composed_trial_pays_for_the_queries_that_it_made(pro, store, drawn):  # noqa: F811
    found = run_sweep(pro(mode="compose", trials=2, epsilon_total=40.0), store)
    account = ledger(store, found.run_id)
    names = [event.id.rpartition("/")[2] for event in account.events if event.scope == "train"]
    assert sorted(names) == ["central", "central", "dp-sgd", "dp-sgd", "frequency", "frequency"]
    assert sorted(name for name, _ in drawn if name in ("central", "frequency")) == ["central"] * 4 + ["frequency"] * 2
    assert found.metrics["privacy/epsilon"] <= 40
    for run in children(found.run_id):
        own = Account.parse(store.fetch(run.info.run_id, "privacy/ledger.json").read_text())
        assert [e.count for e in own.events if e.id.endswith("/central")] == [2] * (len(own.events) // 4)


def test_a_secret_search_charges_queries_as_a_part_of_each_trial(pro, store, drawn, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Stopping, "draw", lambda self, noise: 2)
    found = run_sweep(pro(mode="random_stopping", drawn={"mean": 2.0}), store)
    (event,) = [e for e in ledger(store, found.run_id).events if e.scope == "train"]
    assert [each.id.rpartition("/")[2] for each in event.base] == ["central", "frequency", "dp-sgd"]
    assert [name for name, _ in drawn].count("frequency") == 2
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert {run.data.tags["dpib.stage"] for run in runs} == {"sweep"}  # no query, part or pretraining tells of a trial


def test_parts_are_fitted_for_a_trial_and_its_public_set_is_told(pro, store):  # noqa: F811
    found = run_sweep(pro(PRIVIMAGE, mode="compose", trials=1, epsilon_total=40.0), store)
    account = ledger(store, found.run_id)
    assert "selected" in {event.id.rpartition("/")[2] for event in account.events}
    assert [source.name for source in account.public] == ["glyphs_28"]


def test_a_trial_that_is_cut_off_after_its_query_asks_nothing_again(pro, store, drawn, monkeypatch):  # noqa: F811
    from dpib.stages import course

    sound, calls = course.pretrain, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return sound(*arguments)

    monkeypatch.setattr(course, "pretrain", dying)
    asked = pro(mode="compose", trials=1, epsilon_total=40.0)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(asked, store)
    before = list(drawn)
    monkeypatch.setattr(NoiseSource, "laplace", None)
    found = run_sweep(asked, store)
    assert [name for name, _ in before] == ["central", "central", "frequency"]
    assert [name for name, _ in drawn[len(before) :] if name in ("central", "frequency")] == []
    names = [e.id.rpartition("/")[2] for e in ledger(store, found.run_id).events if e.scope == "train"]
    assert names == ["central", "frequency", "dp-sgd"]
