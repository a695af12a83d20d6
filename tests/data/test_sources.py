"""Official archives: read in place, nothing unpickled, corruption named in one line."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from dpib.data.catalog import CARDS, read_card
from dpib.data.sources import cifar_batch, read_source
from dpib.errors import UserError
from tests.data.made import idx_bytes, small


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
