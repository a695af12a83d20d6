"""A run is found, and work is resumed, only where the images are the same."""

import shutil

import mlflow
import numpy as np
import pytest
import yaml

from dpib.chain import run_generate, run_train
from dpib.data.catalog import find_card
from dpib.pipeline import run_evaluate
from dpib.stages.generate import GEN
from tests.stages.own import interrupted, ledger, own_set


def test_a_colleagues_run_on_other_images_of_that_name_is_not_mine(small, store, data_root, monkeypatch, tmp_path):
    own_set(data_root, "own", "digits_28")
    first = run_train(*small(dataset="own"), store)
    assert run_train(*small(dataset="own"), store).reused
    monkeypatch.setenv("DPIB_HOME", str(tmp_path / "colleague"))
    second = run_train(*small(dataset="own"), store)
    assert not second.reused
    assert second.run_id != first.run_id


def test_work_that_was_begun_on_other_images_is_not_resumed_on_these(small, store, data_root, monkeypatch, capsys):
    config, card = small()
    interrupted(monkeypatch, lambda: run_train(config, card, store))
    with np.load(data_root / "digits_28" / "train.npz") as content:
        arrays = {k: v[::-1] if k in ("images", "labels") else v for k, v in content.items()}
    np.savez(data_root / "digits_28" / "train.npz", **arrays)
    trained = run_train(config, card, store)
    assert "begun on other images" in capsys.readouterr().err
    drawn = run_generate(config, card, store, trained.run_id)
    judged = run_evaluate(config, card, store, store.fetch(drawn.run_id, str(GEN)), drawn.run_id)
    assert judged.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert len([run for run in runs if run.data.tags["dpib.stage"] == "train"]) == 2


def test_a_copy_of_unfinished_work_is_not_resumed_beside_the_original(small, store, monkeypatch, tmp_path):
    config, card = small()
    interrupted(monkeypatch, lambda: run_train(config, card, store))
    shutil.copytree(tmp_path / "home", tmp_path / "copied home")
    original = run_train(config, card, store)
    monkeypatch.setenv("DPIB_HOME", str(tmp_path / "copied home"))
    copied = run_train(config.model_copy(update={"reuse": False}), card, store)
    assert copied.run_id != original.run_id
    assert ledger(store, copied).origins != ledger(store, original).origins


def test_a_run_on_published_images_is_everybodys(small, store, data_root, monkeypatch, tmp_path):
    from dpib.data import store as prepared

    own_set(data_root, "known", "digits_28")
    card = find_card("known", data_root)
    sums = {split: prepared.checksum(prepared.read_split(data_root, card, split)) for split in ("train", "test")}
    (data_root / "known" / "card.yaml").write_text(yaml.safe_dump({**card.model_dump(mode="json"), "checksums": sums}))
    first = run_train(*small(dataset="known"), store)
    monkeypatch.setenv("DPIB_HOME", str(tmp_path / "colleague"))
    assert run_train(*small(dataset="known"), store).run_id == first.run_id
    drawn = run_generate(*small(dataset="known"), store, first.run_id)
    judged = run_evaluate(*small(dataset="known"), store, store.fetch(drawn.run_id, str(GEN)), drawn.run_id)
    assert judged.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)  # the held-out images are others
