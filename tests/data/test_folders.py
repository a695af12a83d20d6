"""Folders and zip files of images: found, read in place, refused where they would do harm."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from dpib.data.catalog import Card, Sizes, Source, find_card
from dpib.data.folders import read_image
from dpib.data.own import card_for
from dpib.data.prepare import prepare
from dpib.data.sources import read_source
from dpib.data.store import read_split
from dpib.data.synthetic import read_gen
from dpib.errors import UserError
from dpib.metrics.features import extract, random_embedding
from dpib.metrics.fidelity import fid
from tests.data.made import png


@pytest.fixture
def pets(tmp_path):
    """Return an image folder of two classes with ten images each."""
    for kind, color in (("cat", (255, 0, 0)), ("dog", (0, 0, 255))):
        (tmp_path / "pets" / kind).mkdir(parents=True)
        for i in range(10):
            suffix, form = ("png", "PNG") if i % 2 else ("jpg", "JPEG")
            (tmp_path / "pets" / kind / f"{i}.{suffix}").write_bytes(png(color, form=form))
    return tmp_path / "pets"


def test_an_image_folder_becomes_a_data_set(pets, tmp_path):
    root = tmp_path / "root"
    card = card_for("pets_16", pets, root, 16, gray=None)
    prepare(card, pets, root, lambda _: None)
    assert card.classes == ["cat", "dog"]
    assert (card.sizes.train, card.sizes.test) == (18, 2)
    train = read_split(root, find_card("pets_16", root), "train")
    assert train.shape == (3, 16, 16)
    reds = train.x[train.y == 0]
    assert int(reds[:, 0].min()) > 240
    assert int(reds[:, 2].max()) < 15
    assert card_for("pets_16", None, root, None, None) == card


def test_train_and_test_folders_are_respected(pets, tmp_path):
    for split in ("train", "test"):
        for kind in ("cat", "dog"):
            (tmp_path / "split" / split / kind).mkdir(parents=True)
            (tmp_path / "split" / split / kind / "0.png").write_bytes(png((9, 9, 9)))
    card = card_for("split_8", tmp_path / "split", tmp_path / "root", 8, gray=True)
    assert (card.sizes.train, card.sizes.test) == (2, 2)
    assert card.shape == (1, 8, 8)


def test_a_zip_of_class_folders_is_read_in_place(pets, tmp_path):
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in sorted(pets.rglob("*.*")):
            archive.write(path, f"some/where/{path.relative_to(pets)}")
    card = Card(
        name="p", title="p", shape=(3, 8, 8), classes=["cat", "dog"], sizes=Sizes(train=20, test=0),
        source=Source(kind="folders"), citation="", licence="", homepage="",
    )  # fmt: skip
    assert len(read_source(card, tmp_path / "pets.zip")["train"]) == 20


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda info: setattr(info, "compress_type", zipfile.ZIP_DEFLATED), "no image does"),
        (lambda info: setattr(info, "external_attr", 0o120777 << 16), "symbolic link"),
    ],
)
def test_a_zip_bomb_or_a_link_is_refused(pets, tmp_path, spoil, says):
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        info = zipfile.ZipInfo("train/cat/0.png")
        spoil(info)
        archive.writestr(info, bytes(2**20))
    card = find_card("mnist_28", tmp_path).model_copy(update={"source": Source(kind="folders"), "classes": ["cat"]})
    with pytest.raises(UserError, match=says):
        read_source(card, tmp_path / "pets.zip")


def test_a_class_of_two_folders_and_inverted_ink(tmp_path):
    (tmp_path / "o" / "Greek" / "character01").mkdir(parents=True)
    (tmp_path / "o" / "Greek" / "character01" / "a.png").write_bytes(png(255, mode="L"))
    card = Card(
        name="o", title="o", shape=(1, 8, 8), classes=["Greek/character01"], sizes=Sizes(train=1, test=0),
        source=Source(kind="folders", invert=True), citation="", licence="", homepage="",
    )  # fmt: skip
    images = read_source(card, tmp_path / "o")["train"]
    assert int(images.x.max()) == 0


def test_images_that_are_none_or_too_large():
    with pytest.raises(UserError, match=r"x.png cannot be read as an image"):
        read_image(b"not an image", (1, 8, 8), "x.png")
    with pytest.raises(UserError, match="cannot be read"):
        read_image(png((1, 2, 3))[:60], (1, 8, 8), "x.png")
    with pytest.raises(UserError, match="more than dpib reads"):
        read_image(png(0, size=(5000, 5000), mode="1"), (1, 8, 8), "x.png")
    icon = io.BytesIO()
    Image.new("L", (8, 8)).save(icon, "ICO")
    with pytest.raises(UserError, match="cannot be read"):
        read_image(icon.getvalue(), (1, 8, 8), "x.ico")


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize("size", [(64, 64), (64, 48)])
def test_images_at_another_size_are_judged_as_they_were_prepared(tmp_path, shape, size):
    rng = np.random.default_rng(0)
    rough = [rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) for _ in range(40)]
    for i, pixels in enumerate(rough):
        folder = tmp_path / "set" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    card = Card(
        name="p", title="p", shape=shape, classes=["a", "b"], sizes=Sizes(train=40, test=0),
        source=Source(kind="folders"), citation="", licence="", homepage="",
    )  # fmt: skip
    real = read_source(card, tmp_path / "set")["train"]
    np.savez(tmp_path / "gen.npz", x=np.stack(rough), y=np.arange(40) % 2)
    synthetic, _ = read_gen(tmp_path / "gen.npz", card)
    embedding = random_embedding(torch.device("cpu"))
    a, b = (extract(embedding, images.x, 40, tmp_path / name, name) for name, images in
            (("real", real), ("synthetic", synthetic)))  # fmt: skip
    assert fid(a, b)["fid"] == pytest.approx(0, abs=1e-4)
    # Not only alike in distribution: every image is the same.
    assert torch.equal(real.x[real.y == 0], synthetic.x[synthetic.y == 0])
