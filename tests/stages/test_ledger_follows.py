"""The ledger follows the images through other data sets, other names, files and kills."""

import json

import mlflow
import numpy as np
import pytest
import yaml
from PIL import Image

from dpib.chain import run_generate, run_train
from dpib.config import compose
from dpib.data.catalog import Sizes, Source, find_card
from dpib.errors import UserError
from dpib.pipeline import run_evaluate, run_main, run_prepare
from dpib.privacy.ledger import Account
from dpib.stages.generate import GEN
from tests.stages.own import final, interrupted, ledger, own_set


def test_a_detour_over_another_data_set_does_not_erase_the_ledger(small, store):
    first = run_train(*small(), store)
    detour = run_train(*small(dataset="glyphs_28"), store, final(store, first))
    statement = store.fetch(detour.run_id, "privacy/statement.md").read_text()
    assert "also learnt from another data set" in statement
    assert "# Privacy statement: digits_28" in statement
    with pytest.raises(UserError, match="already spent epsilon = 10"):
        run_train(*small(epsilon=9), store, final(store, detour))
    back = run_train(*small(epsilon=20), store, final(store, detour))
    assert [event.id for event in ledger(store, back).events] == ["train/before/embedding", "train/embedding"]
    assert 19.9 < back.metrics["privacy/epsilon"] <= 20
    drawn = run_generate(*small(epsilon=20), store, detour.run_id)
    judged = run_evaluate(*small(), store, store.fetch(drawn.run_id, str(GEN)), "detour")
    assert judged.metrics["privacy/epsilon_train"] == pytest.approx(
        10, rel=1e-3
    )  # digits, though trained on glyphs last


def test_what_is_tainted_stays_so_over_a_detour_and_the_run_says_so(small, store):
    first = run_train(*small(unsafe_noise_seed=3), store)
    detour = run_train(*small(dataset="glyphs_28"), store, final(store, first))
    assert mlflow.get_run(detour.run_id).data.tags["dpib.private"] == "true"
    back = run_train(*small(epsilon=20), store, final(store, detour))
    assert mlflow.get_run(back.run_id).data.tags["dpib.private"] == "false"
    assert not any(name.startswith("privacy/epsilon") for name in back.metrics)


def test_the_same_images_under_another_name_share_one_ledger(small, store, data_root):
    own_set(data_root, "mine", "digits_28")
    own_set(data_root, "shuffled", "digits_28", slice(None, None, -1))
    first = run_train(*small(), store)
    with pytest.raises(UserError, match="already spent epsilon = 10"):
        run_train(*small(dataset="mine", epsilon=9), store, final(store, first))
    with pytest.raises(UserError, match="already spent epsilon = 10"):
        run_train(*small(dataset="shuffled", epsilon=9), store, final(store, first))
    with np.load(data_root / "shuffled" / "train.npz") as content:
        fewer = {k: v.copy() if k in ("images", "labels") else v for k, v in content.items()}
    fewer["images"][:100] = 255 - fewer["images"][:100]
    np.savez(data_root / "shuffled" / "train.npz", **fewer)
    with pytest.raises(UserError, match="digits_28, which holds images of shuffled"):
        run_train(*small(dataset="shuffled", epsilon=20), store, final(store, first))


def test_a_killed_run_keeps_its_ledger_beside_the_grids_it_has_shown(small, store, monkeypatch):
    interrupted(monkeypatch, lambda: run_train(*small(), store))
    (killed,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert "train/loss" in killed.data.metrics
    found = Account.parse(store.fetch(killed.info.run_id, "privacy/ledger.json").read_text())
    assert [event.id for event in found.events] == ["train/embedding"]


def test_no_name_of_a_sensitive_file_reaches_the_store(store, tmp_path, digits_root):
    source = tmp_path / "patients"
    for split in ("train", "test"):
        for name in "ab":
            (source / split / name).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(source / split / name / "good.png")
    broken = source / "train" / "a" / "john-doe.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    data_root = tmp_path / "own-data"
    card = find_card("glyphs_28", digits_root).model_copy(
        update={
            "name": "patients", "classes": ["a", "b"], "sizes": Sizes(train=3, test=2), "holdout": 0,
            "source": Source(kind="folders"), "counts": None,
        }
    )  # fmt: skip
    (data_root / "patients").mkdir(parents=True)
    (data_root / "patients" / "card.yaml").write_text(yaml.safe_dump(card.model_dump(mode="json")))
    config, card = compose({"dataset": "patients", "data_root": str(data_root), "eval.mode": "syn"})
    with pytest.raises(UserError, match=r"john-doe\.png"):
        run_prepare(config, card, store, source, True)
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.data.tags["dpib.error"] == "UserError"
    everything = json.dumps([run.data.tags, run.data.params])
    kept = [path.read_bytes() for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]
    assert kept
    assert not any(b"john" in content for content in [everything.encode(), *kept])


def test_a_budget_that_cannot_hold_is_refused_before_anything_is_pretrained(small, store):
    with pytest.raises(UserError, match=r"over the budget of 0\.5"):
        run_main(*small(epsilon=0.5, train__noise_multiplier=0.5, public="glyphs_28"), store)
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []
