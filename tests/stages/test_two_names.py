"""One set of images under two names has one ledger, wherever what was made from it is judged."""

import shutil

import numpy as np
import pytest

from dpib.chain import Start, run_generate, run_train
from dpib.errors import UserError
from dpib.pipeline import run_evaluate
from dpib.sensitive import Sensitive
from dpib.stages.build import FINAL
from dpib.stages.generate import GEN
from dpib.sweeps.job import Order
from dpib.sweeps.launch import starting_account
from dpib.sweeps.spec import Sweep
from tests.stages.own import ledger, own_set

TWICE = 15.727
"""Epsilon of two Gaussian releases of epsilon 10 each, composed."""

SWEEP = {
    "name": "s", "kind": "classifier", "mode": "compose", "trials": 2, "epsilon_total": 50,
    "space": {"eval.schedule.lr": {"low": 0.001, "high": 0.01}}, "score": {"sigma": 20},
}  # fmt: skip


@pytest.fixture
def at(data_root, monkeypatch, tmp_path):
    """Return a function that goes to a machine: its home, and whether `alias` holds the images of `own` there."""

    def go(home, same):
        monkeypatch.setenv("DPIB_HOME", str(tmp_path / home))
        for name in ("own", "alias"):
            shutil.rmtree(data_root / name, ignore_errors=True)
            own_set(data_root, name, "digits_28")
        if not same:
            path = data_root / "alias" / "train.npz"
            with np.load(path) as content:
                arrays = {k: 255 - v if k == "images" else v for k, v in content.items()}
            np.savez(path, **arrays)

    return go


@pytest.fixture
def gen(at, small, store):
    """Images of a training as `own`, then, elsewhere, as `alias` on other images; back at the first machine."""
    at("one", same=True)
    first = run_train(*small(dataset="own"), store)
    start = Start(file=store.fetch(first.run_id, str(FINAL)))
    at("two", same=False)
    config, card = small(dataset="alias")
    second = run_train(config, card, store, start)
    path = store.fetch(run_generate(config, card, store, second.run_id).run_id, str(GEN))
    at("one", same=True)
    return path


def test_a_training_under_another_name_counts_in_an_evaluation(gen, small, store):
    for mode, spent in (("syn", TWICE), ("val", TWICE + 10)):
        judged = run_evaluate(*small(dataset="alias", eval__mode=mode), store, gen, "by file")
        account = ledger(store, judged)
        assert account.dataset == "alias"
        assert account.others == []
        assert account.spent() == pytest.approx(spent, rel=1e-3)
        assert account.epsilon >= account.spent()


def test_and_in_a_sweep(gen, small, store):
    config, card = small(dataset="alias")
    spec = Sweep.model_validate(SWEEP)
    order = Order(spec, config, card, "sqlite://", 1, "g")
    account = starting_account(order, gen, Sensitive(config, card), store, "r")
    assert account.spent() == pytest.approx(TWICE, rel=1e-3)
    assert account.others == []


def test_where_nobody_knows_that_they_are_the_same_both_ledgers_stand(gen, at, small, store):
    at("two", same=False)
    judged = run_evaluate(*small(dataset="alias"), store, gen, "by file")
    account = ledger(store, judged)
    assert [other.dataset for other in account.others] == ["own"]
    assert account.spent() == pytest.approx(10, rel=1e-3)


def test_a_set_that_was_made_under_another_name_alone(at, small, store):
    at("one", same=True)
    config, card = small(dataset="own")
    drawn = run_generate(config, card, store, run_train(config, card, store).run_id)
    path = store.fetch(drawn.run_id, str(GEN))
    at("one", same=False)
    apart = run_evaluate(*small(dataset="alias", eval__mode="syn"), store, path, "by file")
    assert "privacy/epsilon" not in apart.metrics  # it says nothing of these images
    assert [other.dataset for other in ledger(store, apart).others] == ["own"]
    at("one", same=True)
    judged = run_evaluate(*small(dataset="alias"), store, path, "by file")
    assert judged.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)  # the same split: the scopes are disjoint
    assert ledger(store, judged).spent_by_scope() == pytest.approx({"train": 10, "val": 10}, rel=1e-3)


def test_what_one_machine_knew_is_known_where_its_ledger_is(at, small, store):
    at("two", same=True)
    first = run_train(*small(dataset="own"), store)
    at("one", same=False)
    config, card = small(dataset="alias")
    second = run_train(config, card, store, Start(file=store.fetch(first.run_id, str(FINAL))))
    path = store.fetch(run_generate(config, card, store, second.run_id).run_id, str(GEN))
    at("two", same=True)
    there = run_evaluate(*small(dataset="alias"), store, path, "by file")
    assert ledger(store, there).spent() == pytest.approx(TWICE + 10, rel=1e-3)
    at("one", same=False)
    here = run_evaluate(*small(dataset="alias"), store, path, "by file")
    assert ledger(store, here).others == []
    assert ledger(store, here).spent() == pytest.approx(TWICE + 20, rel=1e-3)


def test_a_set_whose_training_held_nothing_out_is_not_judged_on_images_held_out(small, store):
    trained = run_train(*small(data__holdout="none", eval__mode="syn"), store)
    drawn = run_generate(*small(data__holdout="none", eval__mode="syn"), store, trained.run_id)
    with pytest.raises(UserError, match="held none out, so none can select"):
        run_evaluate(*small(), store, store.fetch(drawn.run_id, str(GEN)), drawn.run_id)


def test_what_was_spent_on_a_part_of_the_images_counts_for_all(at, data_root, small, store):
    at("one", same=True)
    path = data_root / "alias" / "train.npz"
    with np.load(path) as content:
        arrays = dict(content)
    arrays["images"][700:] = 255 - arrays["images"][700:]
    np.savez(path, **arrays)
    config, card = small(dataset="alias")
    drawn = run_generate(config, card, store, run_train(config, card, store).run_id)
    gen = store.fetch(drawn.run_id, str(GEN))
    first = run_evaluate(config, card, store, gen, "by file")
    assert ledger(store, first).spent() == pytest.approx(10, rel=1e-3)
    both = run_evaluate(*small(dataset="own"), store, gen, "by file")
    account = ledger(store, both)
    assert (account.dataset, account.others, account.disjoint) == ("own", [], False)
    assert account.spent() == pytest.approx(30, rel=1e-3)  # the training, and two selections
