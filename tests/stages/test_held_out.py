"""What held-out images spent follows them to the next evaluation."""

import shutil

import mlflow
import numpy as np
import pytest

from dpib import checkpoint
from dpib.chain import Start, run_generate, run_train
from dpib.errors import UserError
from dpib.pipeline import run_evaluate
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account
from dpib.spendings import Spendings
from dpib.stages.build import FINAL
from dpib.stages.generate import GEN
from dpib.upstream import file_digest
from tests.stages.own import ledger, own_set


def test_what_held_out_images_spent_is_continued_by_file_and_by_run(small, store, tmp_path, capsys):
    config, card = small()
    trained = run_train(config, card, store)
    drawn = run_generate(config, card, store, trained.run_id)
    gen = store.fetch(drawn.run_id, str(GEN))
    by_run = run_evaluate(config, card, store, gen, drawn.run_id)
    assert by_run.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)
    copied = tmp_path / "copy.npz"
    shutil.copy(gen, copied)
    by_file = run_evaluate(config, card, store, copied, file_digest(copied))
    assert by_file.metrics["privacy/epsilon"] == pytest.approx(20, rel=1e-3)
    assert "this evaluation spends epsilon 10, in all it is 20" in capsys.readouterr().err
    with np.load(gen) as content:
        np.savez(tmp_path / "bare.npz", x=content["x"][::-1], y=content["y"][::-1])
    bare = run_evaluate(config, card, store, tmp_path / "bare.npz", "bare")  # no statement, another order
    assert bare.metrics["privacy/epsilon_selection"] == pytest.approx(30, rel=1e-3)
    other = run_generate(small(generate__images=50)[0], card, store, trained.run_id)
    again = run_evaluate(config, card, store, store.fetch(other.run_id, str(GEN)), other.run_id)
    assert again.metrics["privacy/epsilon_selection"] > 29  # other images of the same training
    assert len({event.id for event in ledger(store, again).events if event.scope == "val"}) >= 6


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_was_spent_on_images_that_trained_counts_beside_the_training(
    small, store, data_root, monkeypatch, tmp_path, elsewhere
):
    def order(images):
        shutil.rmtree(data_root / "own", ignore_errors=True)
        own_set(data_root, "own", "digits_28", images)

    order(slice(None))
    config, card = small(dataset="own")
    drawn = run_generate(config, card, store, run_train(config, card, store).run_id)
    gen = store.fetch(drawn.run_id, str(GEN))
    # In another order other images are held out, which this training saw.
    order(slice(None, None, -1))
    if elsewhere:
        monkeypatch.setenv("DPIB_HOME", str(tmp_path / "another home"))
    reversed_ = run_evaluate(config, card, store, gen, "by file")
    assert reversed_.metrics["privacy/epsilon"] == pytest.approx(20, rel=1e-3)
    order(slice(None))
    monkeypatch.setenv("DPIB_HOME", str(tmp_path / "home"))
    again = run_evaluate(config, card, store, gen, drawn.run_id)
    assert not ledger(store, again).disjoint
    assert again.metrics["privacy/epsilon"] == pytest.approx(30, rel=1e-3)


def test_what_another_machine_spent_is_found_in_the_store(small, store, data_root, monkeypatch, tmp_path):
    own_set(data_root, "own", "digits_28")
    for name, unknown in (("digits_28", 0), ("own", 10)):
        config, card = small(dataset=name)
        trained = run_train(config, card, store)
        drawn = run_generate(config, card, store, trained.run_id)
        gen = store.fetch(drawn.run_id, str(GEN))
        first = run_evaluate(config, card, store, gen, drawn.run_id)
        # Somebody moved that run to another experiment's trash: what it spent stays spent.
        mlflow.MlflowClient().delete_run(first.run_id)
        monkeypatch.setenv("DPIB_HOME", str(tmp_path / f"another home of {name}"))
        elsewhere = run_evaluate(config, card, store, gen, "by file")
        # Twice 10 on held-out images; that the training split images of one's own like this is not known there.
        assert elsewhere.metrics["privacy/epsilon"] == pytest.approx(20 + unknown, rel=1e-3)
        assert ledger(store, elsewhere).disjoint == (not unknown)
        monkeypatch.setenv("DPIB_HOME", str(tmp_path / "home"))


def test_an_evaluation_tells_the_store_what_it_will_spend_before_it_looks_for_others(small, store, monkeypatch):
    config, card = small()
    gen = store.fetch(run_generate(config, card, store, run_train(config, card, store).run_id).run_id, str(GEN))
    seen = []

    def looks(self, account):
        found = Account.parse(self.store.fetch(self.run, "privacy/ledger.json").read_text())
        seen.extend(event.id for event in found.events if event.scope == "val")
        raise RuntimeError("that is all that is to be seen")

    monkeypatch.setattr(Spendings, "continued", looks)
    with pytest.raises(RuntimeError, match="all that is to be seen"):
        run_evaluate(config, card, store, gen, "g")
    assert [name.partition("/select/")[2] for name in seen] == ["resnet", "best"]


def test_held_out_images_of_a_set_prepared_anew_may_be_those_trained_on(small, store, data_root):
    config, card = small()
    trained = run_train(config, card, store)
    drawn = run_generate(config, card, store, trained.run_id)
    with np.load(data_root / "digits_28" / "train.npz") as content:
        arrays = {k: v[::-1] if k in ("images", "labels") else v for k, v in content.items()}
    np.savez(data_root / "digits_28" / "train.npz", **arrays)
    judged = run_evaluate(config, card, store, store.fetch(drawn.run_id, str(GEN)), drawn.run_id)
    assert judged.metrics["privacy/epsilon"] == pytest.approx(20, rel=1e-3)
    assert "not known that they are disjoint" in store.fetch(judged.run_id, "privacy/statement.md").read_text()


def test_held_out_images_that_are_trained_on_later_pay_for_both(small, store, data_root):
    scored = Charge("r/score", "noisy_max", "", epsilon=4.0).event("val", 150, "zero_out")
    first = run_train(*small(), store)
    account = ledger(store, first)
    start = store.fetch(first.run_id, str(FINAL))
    paid = account.model_copy(update={"events": [*account.events, scored]})
    checkpoint.save(start, checkpoint.load(start), ledger=paid.text())
    apart = run_train(*small(epsilon=20), store, Start(file=start))
    assert ledger(store, apart).disjoint
    with np.load(data_root / "digits_28" / "train.npz") as content:
        arrays = {k: v[::-1] if k in ("images", "labels") else v for k, v in content.items()}
    np.savez(data_root / "digits_28" / "train.npz", **arrays)
    with pytest.raises(UserError, match="what was spent before would bring epsilon to"):
        run_train(*small(epsilon=12), store, Start(file=start))
    together = ledger(store, run_train(*small(epsilon=20), store, Start(file=start)))
    assert not together.disjoint
    assert together.spent() <= 20 < together.spent_by_scope()["train"] + 4


def test_an_evaluation_spends_its_own_budget_and_not_that_of_what_made_the_images(small, store):
    config, card = small(epsilon=20)
    drawn = run_generate(config, card, store, run_train(config, card, store).run_id)
    judged = run_evaluate(*small(epsilon=2), store, store.fetch(drawn.run_id, str(GEN)), "by file")
    assert judged.metrics["privacy/epsilon_selection"] == pytest.approx(2, rel=1e-3)
