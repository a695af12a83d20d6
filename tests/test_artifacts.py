"""The files of tracked runs: lost, or moved with their store."""

import shutil

import pytest

from dpib.errors import UserError
from dpib.tracking import Store


def finished(store, tmp_path):
    made = tmp_path / "made"
    (made / "gen").mkdir(parents=True)
    (made / "gen" / "gen.npz").write_text("images")
    run = store.begin(store.experiment("toy", "Toy"), "r", {"dpib.stage": "generate"}, None)
    run.artifacts(made)
    run.finish()
    return run.id


def test_a_run_that_lost_a_file_is_not_intact(tracking_uri, tmp_path):
    store = Store(tracking_uri)
    run = finished(store, tmp_path)
    assert store.intact(run)
    store.fetch(run, "gen/gen.npz").unlink()
    assert not store.intact(run)


def test_what_a_run_lost_what_it_has_not_yet_and_what_it_never_had_are_three_things(tracking_uri, tmp_path):
    store = Store(tracking_uri)
    run = finished(store, tmp_path)
    store.fetch(run, "gen/gen.npz").unlink()
    with pytest.raises(UserError, match=r"has lost its artifact gen/gen\.npz \(put it back, or give the command"):
        store.fetch(run, "gen/gen.npz")
    with pytest.raises(UserError, match=r"a generate run, has no artifact report\.json"):
        store.fetch(run, "report.json")
    stopped = store.begin(store.experiment("toy", "Toy"), "r", {"dpib.stage": "train"}, None)
    stopped.finish("FAILED")
    with pytest.raises(UserError, match=r"is failed and has no artifact gen/gen\.npz yet"):
        store.fetch(stopped.id, "gen/gen.npz")


def test_a_store_that_was_moved_finds_its_artifacts_and_writes_where_it_is(blank_store, tmp_path, monkeypatch, capsys):
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    shutil.copy(blank_store, before / "mlflow.db")
    monkeypatch.chdir(before)
    run = finished(Store(f"sqlite:///{before / 'mlflow.db'}"), tmp_path)
    before.rename(after)
    monkeypatch.chdir(after)
    store = Store(f"sqlite:///{after / 'mlflow.db'}")
    assert store.fetch(run, "gen/gen.npz").is_relative_to(after)
    assert store.intact(run)
    another = store.begin(store.experiment("toy", "Toy"), "r", {"dpib.stage": "train"}, None)
    another.text("hello", "a.txt")
    another.finish()
    assert store.fetch(another.id, "a.txt").is_relative_to(after)
    assert not before.exists()
    assert f"this store was at {before}" in capsys.readouterr().err
