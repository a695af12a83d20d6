"""Stages that are found again, go on after an interruption, or are chained by run ids."""

import json
import shutil

import mlflow
import numpy as np
import pytest
import torch

from dpib import checkpoint
from dpib.chain import run_generate, run_train
from dpib.config import compose
from dpib.errors import UserError
from dpib.methods.kernel import MeanEmbedding
from dpib.pipeline import run_evaluate
from dpib.privacy.ledger import Account
from dpib.stages.generate import GEN
from dpib.tracking import Store
from dpib.upstream import continue_from
from tests.stages.tracked import children


def test_finished_stages_are_reused_and_reuse_can_be_refused(go):
    first, _ = go()
    again, _ = go()
    assert again.reused
    assert again.run_id == first.run_id
    evaluated, run = go(eval__schedule__lr=0.01)
    assert not evaluated.reused
    assert set(children(run)) == {"evaluate"}
    assert run.data.metrics["time/train"] == first.metrics["time/train"]
    forced, run = go(reuse="false")
    assert forced.run_id != first.run_id
    assert set(children(run)) == {"train", "generate", "evaluate"}


def test_other_processes_are_told_of_every_stage_that_they_share_done_or_found(store, tiny, monkeypatch):
    told = []
    monkeypatch.setattr("dpib.runner.announce", lambda world, run, snapshot: told.append((run, snapshot is not None)))
    config, card = compose(tiny)
    trained, _ = (run_train(config, card, store).run_id for _ in range(2))
    drawn, _ = (run_generate(config, card, store, trained).run_id for _ in range(2))
    assert told == [(trained, True), (trained, False), (drawn, True), (drawn, False)]


def test_changed_data_under_the_same_name_are_noticed(go, digits_root, tmp_path, monkeypatch):
    first, _ = go()
    with np.load(digits_root / "digits_28" / "train.npz") as content:
        arrays = dict(content)
    arrays["images"][0] = 255 - arrays["images"][0]
    (tmp_path / "other" / "digits_28").mkdir(parents=True)
    np.savez(tmp_path / "other" / "digits_28" / "train.npz", **arrays)
    (tmp_path / "other" / "digits_28" / "test.npz").write_bytes((digits_root / "digits_28" / "test.npz").read_bytes())
    monkeypatch.setenv("DPIB_DATA", str(tmp_path / "other"))
    again, _ = go()
    assert again.run_id != first.run_id


def test_training_repeats_from_its_seed_but_for_the_noise(go, store, tiny):
    def weights(**overrides):
        config, card = compose({**tiny, "reuse": "false", **overrides})
        run = run_train(config, card, store)
        return checkpoint.load(store.fetch(run.run_id, "checkpoints/final.safetensors"))["generator"]

    a, b = weights(unsafe_noise_seed="3"), weights(unsafe_noise_seed="3")
    c, d = weights(), weights()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(c[k], d[k]) for k in c)


def test_an_interrupted_training_releases_once_and_ends_like_an_unbroken_one(go, store, tiny, monkeypatch):
    config, card = compose({**tiny, "unsafe_noise_seed": "5"})
    unbroken = run_train(config.model_copy(update={"note": "unbroken"}), card, store)
    reference = checkpoint.load(store.fetch(unbroken.run_id, "checkpoints/final.safetensors"))["generator"]

    import dpib.training as training

    monkeypatch.setattr(training, "SNAPSHOT_SECONDS", 0.0)
    stopped = {"at": 7}
    original = training.exact

    def failing(loss, model):
        for step, gradients in enumerate(original(loss, model)):
            if step == stopped["at"]:
                raise RuntimeError("the process dies")
            yield gradients

    monkeypatch.setattr("dpib.methods.embedding.exact", failing)
    fresh = config.model_copy(update={"reuse": False})
    with pytest.raises(RuntimeError, match="dies"):
        run_train(fresh, card, store)
    (failed,) = mlflow.search_runs(
        search_all_experiments=True, filter_string="attributes.status = 'FAILED'", output_format="list"
    )
    assert failed.data.tags["dpib.error"] == "the process dies"
    stopped["at"] = 10**9
    # From here on the vault must not draw again: the release is on disk.
    monkeypatch.setattr("dpib.privacy.rng.NoiseSource.normal", None)
    resumed = run_train(fresh, card, store)
    assert resumed.run_id == failed.info.run_id
    assert mlflow.get_run(resumed.run_id).info.status == "FINISHED"
    found = checkpoint.load(store.fetch(resumed.run_id, "checkpoints/final.safetensors"))["generator"]
    assert all(torch.equal(found[k], reference[k]) for k in reference)
    ledgers = [Account.parse(store.fetch(r.run_id, "privacy/ledger.json").read_text()) for r in (unbroken, resumed)]
    assert ledgers[0].model_copy(update={"origins": ledgers[1].origins}) == ledgers[1]


def test_resume_false_starts_afresh_and_closes_the_old_run(store, tiny, monkeypatch):
    config, card = compose(tiny)
    original = MeanEmbedding.train

    def dies(self, vault, log):
        original(self, vault, log)
        raise KeyboardInterrupt

    monkeypatch.setattr(MeanEmbedding, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        run_train(config, card, store)
    monkeypatch.setattr(MeanEmbedding, "train", original)
    (old,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert old.info.status == "KILLED"
    mlflow.MlflowClient().update_run(old.info.run_id, status="RUNNING")  # as a killed process leaves it
    fresh = run_train(config.model_copy(update={"resume": False}), card, store)
    assert fresh.run_id != old.info.run_id
    assert mlflow.get_run(old.info.run_id).info.status == "KILLED"
    first, second = (
        Account.parse(store.fetch(run, "privacy/ledger.json").read_text()) for run in (old.info.run_id, fresh.run_id)
    )
    assert first.origins != second.origins  # nothing of the old attempt was used


def test_a_training_goes_on_in_another_store_with_what_it_released(store, tiny, blank_store, tmp_path, monkeypatch):
    config, card = compose(tiny)
    original = MeanEmbedding.train

    def dies(self, vault, log):
        original(self, vault, log)
        raise KeyboardInterrupt

    monkeypatch.setattr(MeanEmbedding, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        run_train(config, card, store)
    monkeypatch.setattr(MeanEmbedding, "train", original)
    (old,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    begun = Account.parse(store.fetch(old.info.run_id, "privacy/ledger.json").read_text())
    (tmp_path / "another").mkdir()
    shutil.copy(blank_store, tmp_path / "another" / "mlflow.db")
    another = Store(f"sqlite:///{tmp_path / 'another' / 'mlflow.db'}")
    monkeypatch.setattr("dpib.privacy.rng.NoiseSource.normal", None)  # the release is on disk
    resumed = run_train(config, card, another)
    account = Account.parse(another.fetch(resumed.run_id, "privacy/ledger.json").read_text())
    assert account.origins == begun.origins


def test_stages_alone_chain_by_run_ids(store, tiny, tmp_path):
    config, card = compose(tiny)
    trained = run_train(config, card, store)
    config, card, run = continue_from(trained.run_id, "train", store, {"generate.images": "37"})
    generated = run_generate(config, card, store, run)
    with np.load(store.fetch(generated.run_id, str(GEN))) as content:
        assert content["x"].shape == (37, 1, 28, 28)
        assert content["x"].dtype == np.uint8
        assert content["y"].dtype == np.int64
        statement = json.loads(str(content["statement"]))
    assert statement["epsilon"] == pytest.approx(10, rel=1e-3)
    config, card, run = continue_from(generated.run_id, "generate", store, {"eval.mode": "syn"})
    judged = run_evaluate(config, card, store, store.fetch(run, str(GEN)), run)
    assert "privacy/epsilon_selection" not in judged.metrics
    assert judged.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)


@pytest.mark.parametrize(
    ("stage", "overrides", "says"),
    [
        ("train", {"train.lr": "0.5"}, "train.lr belongs to the train stage, which run"),
        ("train", {"epsilon": "1"}, "epsilon belongs to the train stage"),
        ("generate", {}, "is a train run, a generate run is needed"),
    ],
)
def test_an_override_that_comes_too_late_is_refused(store, tiny, stage, overrides, says):
    config, card = compose(tiny)
    trained = run_train(config, card, store)
    with pytest.raises(UserError, match=says):
        continue_from(trained.run_id, stage, store, overrides)


def test_an_unknown_run_is_refused(store):
    with pytest.raises(UserError, match="no run 'abc'"):
        continue_from("abc", "train", store, {})


def test_a_finished_stage_whose_files_are_gone_is_done_anew(store, tiny, capsys):
    config, card = compose(tiny)
    first = run_train(config, card, store)
    store.fetch(first.run_id, "checkpoints/final.safetensors").unlink()
    again = run_train(config, card, store)
    assert not again.reused
    assert again.run_id != first.run_id
    assert f"run {first.run_id} has lost files that it made; not reused" in capsys.readouterr().err


def test_a_note_on_a_finished_run_is_added_and_never_written_over(store, tiny, capsys):
    config, card = compose(tiny)
    first = run_train(config, card, store)
    noted = run_train(config.model_copy(update={"note": "mine"}), card, store)
    assert noted.run_id == first.run_id
    run = mlflow.get_run(first.run_id)
    assert run.data.tags["mlflow.note.content"] == "mine"
    assert run.info.run_name == "dp-merf-digits_28-eps10-s0-mine"
    assert "keeps the note" not in capsys.readouterr().err
    run_train(config.model_copy(update={"note": "other"}), card, store)
    assert mlflow.get_run(first.run_id).data.tags["mlflow.note.content"] == "mine"
    assert "keeps the note that it has" in capsys.readouterr().err
