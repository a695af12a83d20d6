"""Official archives: read in place, nothing unpickled, corruption named in one line."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from dpib.data.catalog import CARDS, Card, Sizes, Source, find_card, read_card
from dpib.data.folders import read_image
from dpib.data.prepare import card_for, download, ensure, prepare
from dpib.data.sources import cifar_batch, read_source
from dpib.data.store import checksum, read_split, write_split
from dpib.errors import UserError
from dpib.images import Images


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """Return a folder with small files in the official layout, and their content."""
    rng, content = np.random.default_rng(0), {}
    for split, stem, n in (("train", "train", 40), ("test", "t10k", 12)):
        x = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        y = (np.arange(n) % 10).astype(np.uint8)
        content[split] = (x, y)
        for name, array in ((f"{stem}-images-idx3-ubyte", x), (f"{stem}-labels-idx1-ubyte", y)):
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
    return tmp_path, content


def small(card, train, test):
    """Return a card with other sizes and no checksums, for files that a test makes."""
    return card.model_copy(update={"sizes": Sizes(train=train, test=test), "checksums": None, "holdout": 0})


@pytest.fixture
def mnist_card():
    return small(read_card(CARDS / "mnist_28.yaml"), 40, 12)


def test_idx_files_are_read_as_they_are(mnist, mnist_card):
    folder, content = mnist
    for split, images in read_source(mnist_card, folder).items():
        assert np.array_equal(images.x[:, 0].numpy(), content[split][0])
        assert np.array_equal(images.y.numpy(), content[split][1])


@pytest.mark.parametrize("zipped", [False, True])
def test_emnist_letters_are_turned_upright_and_counted_from_zero(tmp_path, zipped):
    x = np.arange(26 * 784, dtype=np.uint32).astype(np.uint8).reshape(26, 28, 28)
    files = {}
    for split in ("train", "test"):
        files[f"emnist-letters-{split}-images-idx3-ubyte.gz"] = gzip.compress(idx_bytes(x))
        files[f"emnist-letters-{split}-labels-idx1-ubyte.gz"] = gzip.compress(
            idx_bytes(np.arange(1, 27, dtype=np.uint8))
        )
    if zipped:
        with zipfile.ZipFile(tmp_path / "gzip.zip", "w") as archive:
            for name, raw in files.items():
                archive.writestr(f"gzip/{name}", raw)
    else:
        for name, raw in files.items():
            (tmp_path / name).write_bytes(raw)
    card = small(read_card(CARDS / "emnist_28.yaml"), 26, 26)
    for images in read_source(card, tmp_path).values():
        assert np.array_equal(images.x[:, 0].numpy(), x.transpose(0, 2, 1))
        assert images.y.tolist() == list(range(26))
    (tmp_path / next(iter(files))).write_bytes(b"no gzip")
    (tmp_path / "gzip.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="fetch it again"):
        read_source(card, tmp_path)


def test_every_public_card_has_as_many_classes_as_published():
    known = {"imagenet_32": 1000, "places365_32": 365, "emnist_28": 26, "tinyimagenet_32": 200, "omniglot_28": 242}
    assert {name: len(read_card(CARDS / f"{name}.yaml").classes) for name in known} == known


@pytest.mark.parametrize("cut", [10, 2000])
def test_a_truncated_gzip_is_named(mnist, mnist_card, cut):
    path = mnist[0] / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz is corrupt"):
        read_source(mnist_card, mnist[0])


def test_a_header_that_lies_is_named(mnist, mnist_card):
    raw = idx_bytes(np.zeros((40, 28, 28), np.uint8))
    (mnist[0] / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(raw[:-1]))
    with pytest.raises(UserError, match="header does not match"):
        read_source(mnist_card, mnist[0])


def test_a_missing_file_is_named(mnist, mnist_card):
    (mnist[0] / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"has no t10k-labels-idx1-ubyte.gz"):
        read_source(mnist_card, mnist[0])


def python2_batch(pixels, labels):
    """Return a CIFAR batch as Python 2 pickled it: protocol 2 with byte strings."""
    out = io.BytesIO()
    out.write(b"\x80\x02}q\x01(")
    out.write(b"U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03")
    out.write(b"U\x06labelsq\x04]q\x05")
    for start in range(0, len(labels), 3):
        out.write(b"(" + b"".join(b"K" + bytes([v]) for v in labels[start : start + 3]) + b"e")
    out.write(
        b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09(K\x01"
    )
    out.write(b"K" + bytes([len(labels)]) + b"M\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87R\x89")
    out.write(b"T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tbu.")
    return out.getvalue()


@pytest.mark.parametrize("python", [2, 3])
def test_a_cifar_batch_is_read_without_unpickling(python):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3072), dtype=np.uint8)
    labels = [3, 1, 4, 1, 5, 9, 2]
    if python == 2:
        raw = python2_batch(pixels, labels)
    else:
        raw = pickle.dumps({b"labels": labels, b"data": pixels, b"filenames": [b"a.png"] * 7}, protocol=4)
    x, y = cifar_batch(raw, "here")
    assert np.array_equal(x, pixels)
    assert y == labels


def test_a_pickle_bomb_does_not_go_off(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("gone-off").touch, ())

    with pytest.raises(UserError, match="is corrupt"):
        cifar_batch(pickle.dumps({"labels": [1], "data": Bomb()}), "here")
    assert not (tmp_path / "gone-off").exists()


def cifar_tar(path, per_batch=4, drop=None):
    rng = np.random.default_rng(1)
    with tarfile.open(path, "w:gz") as archive:
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
            if name == drop:
                continue
            raw = python2_batch(rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8), list(range(per_batch)))
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))


def test_the_cifar_archive(tmp_path):
    card = small(read_card(CARDS / "cifar10_32.yaml"), 20, 4)
    path = tmp_path / "cifar-10-python.tar.gz"
    cifar_tar(path)
    for source in (path, tmp_path):
        splits = read_source(card, source)
        assert splits["train"].x.shape == (20, 3, 32, 32)
        assert splits["test"].y.tolist() == [0, 1, 2, 3]
    cifar_tar(path, drop="data_batch_3")
    with pytest.raises(UserError, match="not CIFAR's python archive"):
        read_source(card, path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="is corrupt"):
        read_source(card, path)


def png(color, size=(40, 30), mode="RGB", form="PNG"):
    out = io.BytesIO()
    Image.new(mode, size, color).save(out, form)
    return out.getvalue()


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
    card = card_for("pets_16", pets, root, 16, gray=False)
    prepare(card, pets, root, lambda _: None)
    assert card.classes == ["cat", "dog"]
    assert (card.sizes.train, card.sizes.test) == (18, 2)
    train = read_split(root, find_card("pets_16", root), "train")
    assert train.shape == (3, 16, 16)
    reds = train.x[train.y == 0]
    assert int(reds[:, 0].min()) > 240
    assert int(reds[:, 2].max()) < 15
    again = card_for("pets_16", None, root, 99, gray=True)
    assert again == card


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


@pytest.mark.parametrize("name", ["../mnist_28", "a/b", "", ".hidden", "a b"])
def test_a_name_that_would_leave_the_data_root_is_refused(name, tmp_path):
    with pytest.raises(UserError, match="is no name of a data set"):
        find_card(name, tmp_path)


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
    with pytest.raises(UserError, match=r"x.png cannot be read as PNG or JPEG"):
        read_image(b"not an image", (1, 8, 8), "x.png")
    with pytest.raises(UserError, match="cannot be read"):
        read_image(png((1, 2, 3))[:60], (1, 8, 8), "x.png")
    with pytest.raises(UserError, match="more than dpib reads"):
        read_image(png(0, size=(5000, 5000), mode="1"), (1, 8, 8), "x.png")
    gif = io.BytesIO()
    Image.new("L", (8, 8)).save(gif, "GIF")
    with pytest.raises(UserError, match="cannot be read"):
        read_image(gif.getvalue(), (1, 8, 8), "x.gif")


def test_prepare_writes_what_is_read_back(mnist, mnist_card, tmp_path):
    lines = []
    splits = prepare(mnist_card, mnist[0], tmp_path / "root", lines.append)
    for split, images in splits.items():
        back = read_split(tmp_path / "root", mnist_card, split)
        assert torch.equal(back.x, images.x)
        assert torch.equal(back.y, images.y)
    assert "40 images" in lines[0]


def test_prepared_files_serve_as_a_source(mnist, mnist_card, tmp_path):
    prepare(mnist_card, mnist[0], tmp_path / "root", lambda _: None)
    again = prepare(mnist_card, tmp_path / "root" / "mnist_28", tmp_path / "copy", lambda _: None)
    assert len(again["train"]) == 40


def test_prepare_refuses_other_content_and_other_sizes(mnist, mnist_card, tmp_path):
    official = read_card(CARDS / "mnist_28.yaml")
    with pytest.raises(UserError, match="60000 images in train, the source holds 40"):
        prepare(official, mnist[0], tmp_path / "root", lambda _: None)
    forged = mnist_card.model_copy(update={"checksums": official.checksums})
    with pytest.raises(UserError, match="not the published MNIST"):
        prepare(forged, mnist[0], tmp_path / "root", lambda _: None)
    assert not (tmp_path / "root").exists()
    prepare(forged, mnist[0], tmp_path / "root", lambda _: None, verify=False)


def test_the_checksum_does_not_depend_on_the_order_but_on_all_else():
    x = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8)
    images = Images(x, torch.arange(20))
    assert checksum(images) == checksum(images.take(torch.randperm(20)))
    swapped = Images(x, torch.arange(20).flip(0))
    assert checksum(images) != checksum(swapped)


def test_a_failed_download_says_what_to_do(monkeypatch, tmp_path):
    tried = []

    def fail(url, root, filename, md5):
        tried.append(url)
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    card = read_card(CARDS / "mnist_28.yaml")
    with pytest.raises(UserError, match=r"cannot download train-images.*-P source="):
        download(card, tmp_path, lambda _: None)
    assert len(tried) == 2  # both of torchvision's mirrors


def test_download_checks_the_official_digest(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        "torchvision.datasets.utils.download_url", lambda url, root, name, md5: asked.update({name: md5})
    )
    download(read_card(CARDS / "fmnist_28.yaml"), tmp_path, lambda _: None)
    from torchvision.datasets import FashionMNIST

    assert asked == dict(FashionMNIST.resources)


def test_the_bundled_digits_need_no_files(tmp_path):
    card = find_card("digits_28", tmp_path)
    ensure(card, tmp_path)
    train, test = (read_split(tmp_path, card, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1498, 299)
    assert train.y.bincount().min() > 100
    assert int(train.x.max()) == 255


def test_every_shipped_card_is_complete():
    for path in CARDS.glob("*.yaml"):
        card = read_card(path)
        assert card.name == path.stem
        assert card.citation
        assert card.licence
        assert card.homepage.startswith("http")


def test_writing_is_atomic(monkeypatch, tmp_path):
    card = small(find_card("digits_28", tmp_path), 2, 0)
    images = Images(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    path = write_split(tmp_path, card, "train", images)
    before = path.read_bytes()

    def full_disk(handle, **arrays):
        handle.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_split(tmp_path, card, "train", images)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["train.npz"]
