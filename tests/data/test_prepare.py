"""From a source to prepared files: cards, downloads, checksums, whole writes."""

import numpy as np
import pytest
import torch

from dpib.data.catalog import CARDS, find_card, read_card
from dpib.data.prepare import download, ensure, prepare
from dpib.data.store import checksum, read_split, write_split
from dpib.errors import UserError
from dpib.images import Images
from tests.data.made import small


def test_every_public_card_has_as_many_classes_as_published():
    known = {"imagenet_32": 1000, "places365_32": 365, "emnist_28": 26, "tinyimagenet_32": 200, "omniglot_28": 242}
    assert {name: len(read_card(CARDS / f"{name}.yaml").classes) for name in known} == known


@pytest.mark.parametrize("name", ["../mnist_28", "a/b", "", ".hidden", "a b"])
def test_a_name_that_would_leave_the_data_root_is_refused(name, tmp_path):
    with pytest.raises(UserError, match="is no name of a data set"):
        find_card(name, tmp_path)


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
