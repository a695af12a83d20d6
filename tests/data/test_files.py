"""Files that may come from anywhere: npz headers, prepared splits, anybody's synthetic sets, cards."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch

from dpib import checkpoint
from dpib.data import npz
from dpib.data.catalog import Card, Sizes, find_card, read_card
from dpib.data.prepare import prepare
from dpib.data.split import holdout_positions, split_holdout
from dpib.data.store import read_split
from dpib.data.synthetic import doubts, read_gen
from dpib.errors import UserError
from dpib.images import Images
from dpib.metrics.features import weights_file
from dpib.public import adapt, read_public
from dpib.section import validated
from dpib.stages.evaluate import one_class
from dpib.upstream import file_digest


@pytest.fixture
def card(tmp_path):
    return find_card("digits_28", tmp_path)


def test_a_header_bomb_is_refused_before_memory_is_asked_for(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**42,)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + b"tiny")
    with pytest.raises(UserError, match=r"claims 4398046511104 bytes"):
        npz.load(tmp_path / "bomb.npz", ("x",))


def test_objects_are_never_loaded(tmp_path):
    np.savez(tmp_path / "o.npz", x=np.array([object()], dtype=object))
    with pytest.raises(UserError, match="Python objects"):
        npz.load(tmp_path / "o.npz", ("x",))


def test_truncated_and_foreign_files_are_named(tmp_path):
    np.savez(tmp_path / "t.npz", x=np.zeros(1000))
    raw = (tmp_path / "t.npz").read_bytes()
    (tmp_path / "t.npz").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError, match=r"t.npz is not a readable npz file"):
        npz.load(tmp_path / "t.npz", ("x",))
    (tmp_path / "no.npz").write_text("hello")
    with pytest.raises(UserError, match=r"no.npz is not a readable npz file"):
        npz.load(tmp_path / "no.npz", ("x",))
    with pytest.raises(UserError, match="does not exist"):
        npz.load(tmp_path / "absent.npz", ("x",))


def test_a_flipped_byte_is_noticed(tmp_path):
    np.savez(tmp_path / "f.npz", x=np.arange(1000))
    raw = bytearray((tmp_path / "f.npz").read_bytes())
    raw[len(raw) // 2] ^= 255
    (tmp_path / "f.npz").write_bytes(bytes(raw))
    with pytest.raises(UserError, match="corrupt"):
        npz.load(tmp_path / "f.npz", ("x",))


def test_a_missing_array_is_named(tmp_path):
    np.savez(tmp_path / "m.npz", images=np.zeros(3))
    with pytest.raises(UserError, match=r"has no array 'x'; it holds images"):
        npz.load(tmp_path / "m.npz", ("x",))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": np.zeros((1498, 28, 28), np.float32)}, "images are float32"),
        ({"images": np.zeros((1498, 32, 32), np.uint8)}, r"needs uint8 \[n, 28, 28\]"),
        ({"images": np.zeros((1498, 28, 28), np.uint8), "labels": np.full(1498, 10)}, "labels go from 10"),
        ({"images": np.zeros((1498, 28, 28), np.uint8), "labels": np.zeros(5, int)}, "labels are int64"),
        ({"images": np.zeros((7, 28, 28), np.uint8), "labels": np.zeros(7, int)}, "holds 7 images"),
    ],
)
def test_a_prepared_split_is_checked_against_its_card(tmp_path, card, arrays, says):
    (tmp_path / "digits_28").mkdir()
    np.savez(tmp_path / "digits_28" / "train.npz", **{"labels": np.zeros(1498, int), **arrays})
    with pytest.raises(UserError, match=says):
        read_split(tmp_path, card, "train")


def test_a_missing_data_set_says_which_files_to_put_where(tmp_path):
    with pytest.raises(UserError) as error:
        read_split(tmp_path, find_card("mnist_28", tmp_path), "train")
    text = str(error.value)
    assert "mnist_28/train.npz does not exist" in text
    assert "train-images-idx3-ubyte.gz" in text
    assert "mlflow run . --env-manager local -e prepare -P dataset=mnist_28 -P source=" in text
    assert "\n" not in text


LEVELS = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize(
    "x",
    [
        LEVELS,
        LEVELS[:, None],
        LEVELS[..., None],
        np.repeat(LEVELS[:, None], 3, 1),
        np.repeat(LEVELS[..., None], 3, 3),
        LEVELS.astype(np.float32) / 255,
        (LEVELS[:, None] / 255).astype(np.float64),
    ],
    ids=["hw", "nchw", "nhwc", "rgb nchw", "rgb nhwc", "float32", "float64"],
)
def test_every_common_layout_of_a_synthetic_set_reads_the_same(tmp_path, card, x):
    np.savez(tmp_path / "gen.npz", x=x, y=np.arange(6, dtype=np.int32))
    images, statement = read_gen(tmp_path / "gen.npz", card)
    assert statement is None
    assert images.shape == (1, 28, 28)
    assert int((images.x[:, 0].int() - torch.from_numpy(LEVELS).int()).abs().max()) == 0
    assert images.y.tolist() == list(range(6))


def test_another_resolution_is_resized(tmp_path, card):
    np.savez(tmp_path / "gen.npz", x=np.full((3, 64, 64, 3), 77, np.uint8), y=np.zeros(3, np.uint8))
    images, _ = read_gen(tmp_path / "gen.npz", card)
    assert images.shape == (1, 28, 28)
    assert images.x.unique().tolist() == [77]


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (np.full((3, 28, 28), 2.0), np.zeros(3, int), r"must lie in \[0, 1\]"),
        (np.full((3, 28, 28), np.nan), np.zeros(3, int), r"must lie in \[0, 1\]"),
        (np.zeros((3, 28, 28), np.int64), np.zeros(3, int), "x is int64"),
        (np.zeros((3, 5, 28, 28), np.uint8), np.zeros(3, int), "1 or 3 channels"),
        (np.zeros((0, 28, 28), np.uint8), np.zeros(0, int), "must be"),
        (np.zeros((3, 28, 28), np.uint8), np.zeros(3), "y is float64"),
        (np.zeros((3, 28, 28), np.uint8), np.zeros((3, 10), int), "must be integers"),
        (np.zeros((3, 28, 28), np.uint8), np.array([0, 1, 10]), "has 10 classes"),
        (np.zeros((3, 28, 28), np.uint8), np.array([0, -1, 1]), "goes from -1"),
    ],
)
def test_a_synthetic_set_that_is_none_is_refused(tmp_path, card, x, y, says):
    np.savez(tmp_path / "gen.npz", x=x, y=y)
    with pytest.raises(UserError, match=says):
        read_gen(tmp_path / "gen.npz", card)


def test_a_statement_is_json_or_refused(tmp_path, card):
    x, y = np.zeros((2, 28, 28), np.uint8), np.zeros(2, int)
    np.savez(tmp_path / "a.npz", x=x, y=y, statement=np.asarray(json.dumps({"ledger": {}})))
    assert read_gen(tmp_path / "a.npz", card)[1] == {"ledger": {}}
    np.savez(tmp_path / "b.npz", x=x, y=y, statement=np.asarray("epsilon is small"))
    with pytest.raises(UserError, match="statement is not JSON"):
        read_gen(tmp_path / "b.npz", card)


def test_the_split_is_disjoint_complete_and_never_changes():
    kept, held = holdout_positions(60_000, 5_000)
    assert len(kept) == 55_000
    assert torch.cat([kept, held]).unique().numel() == 60_000
    # Published runs depend on this very split.
    assert held[:5].tolist() == GOLDEN_SPLIT
    images = Images(torch.zeros(10, 1, 1, 1, dtype=torch.uint8), torch.arange(10))
    train, val = split_holdout(images, 3)
    assert sorted([*train.y.tolist(), *val.y.tolist()]) == list(range(10))


GOLDEN_SPLIT = [24, 25, 34, 39, 41]


def test_the_split_does_not_look_at_the_records():
    """Zero-out and replace-one neighbours must share it: a record's scope depends on its position alone."""
    x = torch.randint(0, 256, (50, 1, 2, 2), dtype=torch.uint8)
    a, b = Images(x, torch.arange(50) % 3), Images(255 - x, torch.zeros(50, dtype=torch.int64))
    assert torch.equal(255 - split_holdout(a, 9)[1].x, split_holdout(b, 9)[1].x)


def test_public_images_are_brought_to_shape():
    rgb = Images(torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8), torch.arange(5))
    assert adapt(rgb, (1, 28, 28)).shape == (1, 28, 28)
    gray = Images(torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8), torch.arange(5))
    assert adapt(gray, (3, 32, 32)).shape == (3, 32, 32)
    assert adapt(gray, (1, 28, 28)) is gray


def test_public_data_by_name_or_folder(tmp_path, digits_root):
    assert len(read_public("digits_28", (3, 16, 16), str(digits_root))) == 1498
    with pytest.raises(UserError, match="unknown data set"):
        read_public("imagenet_9000", (1, 28, 28), str(digits_root))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("shape: [2, 28, 28]", "shape must be"),
        ("holdout: 5000", "leaves nothing"),
        ("version: one", "version"),
        ("colour: red", "unknown key 'colour'"),
        ("title: a\ntitle: b", "stands twice"),
        ("title: [", "expected the node content"),
    ],
)
def test_a_wrong_card_is_refused(tmp_path, root, change, says):
    key = change.split(":")[0]
    lines = (root / "configs/datasets/digits_28.yaml").read_text().splitlines()
    text = "\n".join([line for line in lines if not line.startswith(f"{key}:")] + [change])
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(UserError, match=says):
        read_card(tmp_path / "card.yaml")


def test_a_set_of_only_0_and_1_is_not_judged_as_black(tmp_path, card):
    np.savez(tmp_path / "gen.npz", x=np.eye(28, dtype=np.uint8)[None], y=np.zeros(1, int))
    with pytest.raises(UserError, match="holds only 0 and 1"):
        read_gen(tmp_path / "gen.npz", card)


def test_a_set_of_other_data_or_without_some_classes_is_doubted(card):
    images = Images(torch.zeros(8, 1, 28, 28, dtype=torch.uint8), torch.arange(8))
    foreign, missing = doubts(images, {"ledger": {"dataset": "mnist_28"}}, card)
    assert foreign == "the set states that it was made from mnist_28, and is judged as one of digits_28"
    assert missing == "the set has no image of 2 of 10 classes: 8, 9"
    whole = Images(torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10))
    assert doubts(whole, {"ledger": {"dataset": "digits_28"}}, card) == []
    assert doubts(whole, None, card) == []


def test_a_folder_given_as_a_file_is_called_a_folder(tmp_path):
    for read in (lambda path: npz.load(path, ("x",)), checkpoint.load, file_digest):
        with pytest.raises(UserError, match="is a folder, not a file"):
            read(tmp_path)
    with pytest.raises(UserError, match="are a folder"):
        weights_file(str(tmp_path))


@pytest.mark.parametrize("name", ["digits_28", "glyphs_28"])
def test_the_counts_of_a_bundled_card_are_those_of_its_images(tmp_path, name):
    bundled = find_card(name, tmp_path)
    lines = []
    for split, images in prepare(bundled, None, tmp_path, lines.append).items():
        assert images.y.bincount().tolist() == getattr(bundled.counts, split)
    first = bundled.counts.test[0]
    assert any(f"images by class in test: 0 {first}, 1 " in line for line in lines)


def test_counts_that_do_not_add_up_are_refused(card):
    tree = {**card.model_dump(), "counts": {"train": [1] * 10, "test": card.counts.test}}
    with pytest.raises(UserError, match=r"counts.train must be 10 numbers with the sum 1498"):
        validated(Card, tree, "card")


@pytest.mark.parametrize(("accuracy", "warned"), [(11.3, True), (12.3, True), (14, False), (None, False)])
def test_an_accuracy_that_one_class_explains_is_doubted(card, accuracy, warned):
    """37 of the 299 test digits are zeros: 12.4 percent, give or take 1.9."""
    text = one_class(card.model_copy(update={"sizes": Sizes(train=1498, test=29_900)}), accuracy)
    assert (text is not None) == warned
    if warned:
        assert "12.4 % of the test images are of class '0' alone" in text
    assert one_class(card.model_copy(update={"counts": None}), accuracy) is None
