"""What is taken as public is not the sensitive set, whatever it is called and wherever it lies."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

from dpib import checkpoint
from dpib.chain import Start, run_before, run_generate, run_part, run_pretrain, run_train
from dpib.errors import UserError
from dpib.stages.build import FINAL
from dpib.stages.generate import GEN
from tests.stages.own import ledger, own_set


@pytest.mark.parametrize("public", ["digits_28", "card", "folder", "copy"])
def test_a_public_set_that_is_the_sensitive_one_is_refused(small, store, data_root, public, tmp_path):
    own_set(data_root, "copy", "digits_28", slice(None, None, -1))
    shutil.copy(data_root / "copy" / "card.yaml", tmp_path / "card.yaml")
    text = (tmp_path / "card.yaml").read_text().replace("name: copy", "name: digits_28")
    (tmp_path / "card.yaml").write_text(text)
    name = {"card": str(tmp_path / "card.yaml"), "folder": str(data_root / "digits_28")}.get(public, public)
    with pytest.raises(UserError, match=r"the sensitive data set itself|holds exactly the images"):
        run_pretrain(*small(public=name), store)


@pytest.mark.parametrize(
    ("go", "public"),
    [(partial(run_part, "semantics"), "digits_28"), (run_before, "digits_28"), (run_before, "copy")],
    ids=["part", "all before training", "all before training, under another name"],
)
def test_nothing_before_a_training_learns_from_the_sensitive_images(privimage, store, data_root, go, public):
    own_set(data_root, "copy", "digits_28", slice(None, None, -1))
    with pytest.raises(UserError, match=r"the sensitive data set itself|holds exactly the images"):
        go(*privimage(public=public), store)


def test_a_folder_of_the_sensitive_images_is_no_public_set(small, store, data_root, tmp_path):
    with np.load(data_root / "digits_28" / "train.npz") as content:
        for i, (image, label) in enumerate(zip(content["images"], content["labels"], strict=True)):
            (tmp_path / "mine" / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.squeeze()).save(tmp_path / "mine" / str(label) / f"{i:05}.png")
    with pytest.raises(UserError, match=r"some images of digits_28 are in mine too|holds exactly the images"):
        run_pretrain(*small(public=str(tmp_path / "mine")), store)


def test_a_pretraining_on_the_sensitive_images_is_refused_by_their_training(small, store):
    pretrained = run_pretrain(*small(dataset="glyphs_28", public="digits_28"), store)
    with pytest.raises(UserError, match="digits_28 is the sensitive data set itself"):
        run_train(*small(), store, Start(run=pretrained.run_id))
    drawn = run_generate(*small(dataset="glyphs_28"), store, pretrained.run_id)
    with np.load(store.fetch(drawn.run_id, str(GEN))) as content:
        account = json.loads(str(content["statement"]))["ledger"]
    assert [source["name"] for source in account["public"]] == ["digits_28"]


def test_more_than_a_handful_of_shared_images_must_be_declared(small, store, data_root, tmp_path):
    own_set(data_root, "few", "digits_28", np.arange(1498))
    with np.load(data_root / "glyphs_28" / "train.npz") as content:
        glyphs = dict(content)
    with np.load(data_root / "digits_28" / "train.npz") as content:
        glyphs["images"][:9] = content["images"][:9]
    np.savez(data_root / "glyphs_28" / "train.npz", **glyphs)
    with pytest.raises(UserError, match="some images of digits_28 are in glyphs_28 too"):
        run_pretrain(*small(public="glyphs_28"), store)
    declared = {"public": "glyphs_28", "public_overlap": "declared"}
    pretrained = run_pretrain(*small(**declared), store)
    with pytest.raises(UserError, match="some images of digits_28"):
        run_train(*small(public="glyphs_28"), store, Start(run=pretrained.run_id))
    trained = run_train(*small(**declared), store, Start(run=pretrained.run_id))
    statement = store.fetch(trained.run_id, "privacy/statement.md").read_text()
    assert "declared to hold images of this data set, which are not protected" in statement


def test_a_checkpoint_that_says_nothing_of_its_origin_is_named_as_public(small, store, tmp_path):
    pretrained = run_pretrain(*small(public="glyphs_28"), store)
    bare = tmp_path / "found.safetensors"
    checkpoint.save(bare, checkpoint.load(store.fetch(pretrained.run_id, str(FINAL))))
    trained = run_train(*small(), store, Start(file=bare))
    assert [source.name for source in ledger(store, trained).public] == ["checkpoint found.safetensors"]


def test_a_public_folder_is_found_again_from_another_folder(small, store, tmp_path, monkeypatch, digits_root):
    monkeypatch.chdir(tmp_path)
    with np.load(digits_root / "digits_28" / "train.npz") as content:
        for i in range(20):
            (tmp_path / "pub" / str(i % 2)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content["images"][i]).save(tmp_path / "pub" / str(i % 2) / f"{i}.png")
    pretrained = run_pretrain(*small(dataset="glyphs_28", public="pub", pretrain__batch=10), store)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"some images of digits_28 are in .*pub too"):
        run_train(*small(), store, Start(run=pretrained.run_id))
    # Where it is gone and was never compared, the statement says so.
    (tmp_path / "pub").rename(tmp_path / "gone")
    monkeypatch.setenv("DPIB_HOME", str(tmp_path / "another home"))
    trained = run_train(*small(), store, Start(run=pretrained.run_id))
    assert "not at hand to be compared" in store.fetch(trained.run_id, "privacy/statement.md").read_text()
