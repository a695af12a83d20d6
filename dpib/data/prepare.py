"""From official archives, given locally or downloaded, to the data root."""

import tempfile
from pathlib import Path
from urllib.error import URLError

import numpy as np

from dpib.data import npz, store
from dpib.data.catalog import BUNDLED, Card
from dpib.data.folders import Say
from dpib.data.sources import read_source
from dpib.errors import UserError
from dpib.images import Images


def prepare(
    card: Card, source: Path | None, root: Path, say: Say, verify: bool = True, replace: bool = False
) -> dict[str, Images]:
    """Write `<root>/<name>/{train,test}.npz` and return the splits.

    Args:
        card: which data set.
        source: a folder or archive with the official files, or None to download them.
        root: the data root.
        say: receives progress, a line at a time.
        verify: refuse content that differs from the published one (by the card's checksums).
        replace: write over other images that were prepared under this name.

    Raises:
        UserError: for missing, corrupt or foreign files, a failed download, or other images under this name.
    """
    require_writable(root)
    if source is None and card.source.archives:
        with tempfile.TemporaryDirectory(prefix="dpib-") as folder:
            download(card, Path(folder), say)
            splits = read_source(card, Path(folder), say)
    elif source is None and card.source.kind not in BUNDLED:
        raise UserError(f"{card.name} has no download: give -P source=<folder or zip archive>")
    else:
        splits = read_source(card, source, say)
    _check(card, splits, verify)
    if not replace:
        _refuse_others(card, splits, root)
    for split, images in splits.items():
        path = store.write_split(root, card, split, images)
        say(f"{path}: {len(images)} images {list(images.shape)}")
        if card.counts is not None:
            say(f"{card.name}: images by class in {split}: {_by_class(card, images)}")
    return splits


def _refuse_others(card: Card, splits: dict[str, Images], root: Path) -> None:
    """Refuse to write over images other than these; what cannot be read any more is no loss."""
    for split, images in splits.items():
        path = store.split_path(root, card.name, split)
        try:
            before = npz.load(path, ("images", "labels"))
        except UserError:
            continue
        after = store.arrays(images)
        if not all(np.array_equal(before[name], after[name]) for name in before):
            raise UserError(
                f"{card.name} is prepared from other images than these ({path}): "
                "take another name, or replace them with -P replace=true"
            )


def _by_class(card: Card, images: Images) -> str:
    counts = images.y.bincount(minlength=len(card.classes)).tolist()
    return ", ".join(f"{name} {n}" for name, n in zip(card.classes, counts, strict=True))


def require_writable(root: Path) -> None:
    """Refuse a data root that cannot be written before anything is read or downloaded.

    Raises:
        UserError: with the reason.
    """
    there = next(path for path in (root.absolute(), *root.absolute().parents) if path.is_dir())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"the data root {root} cannot be written ({error.strerror}): give -P data_root=<folder>, or set DPIB_DATA"
        ) from None


def ensure(card: Card, root: Path) -> None:
    """Prepare a data set that needs no files (the bundled ones) if that was not done yet."""
    if card.source.kind in BUNDLED and not store.split_path(root, card.name, "train").is_file():
        prepare(card, None, root, lambda _: None)


def _check(card: Card, splits: dict[str, Images], verify: bool) -> None:
    for split, images in splits.items():
        expected = card.sizes.train if split == "train" else card.sizes.test
        if len(images) != expected:
            raise UserError(
                f"{card.name} has {expected} images in {split}, the source holds {len(images)}: give its own files, "
                "take another name, or replace your own images with -P replace=true"
            )
        if verify and card.checksums is not None and store.checksum(images) != getattr(card.checksums, split):
            raise UserError(
                f"the {split} images of this source are not the published {card.title} (their SHA-256 differs): "
                "fetch them again, or accept them with -P verify=false"
            )


def download(card: Card, folder: Path, say: Say) -> None:
    """Fetch the card's archives into `folder` and check their MD5.

    Raises:
        UserError: when no mirror answers or the content is not the expected one; says what to do by hand.
    """
    from torchvision.datasets.utils import download_url

    for archive in card.source.archives:
        faults = []
        for url in mirrors(card, archive.name) or [archive.url]:
            say(f"downloading {url}")
            try:
                download_url(url, str(folder), archive.name, archive.md5)
                break
            except (URLError, RuntimeError, OSError) as error:
                faults.append(f"{url}: {error}")
        else:
            raise UserError(
                f"cannot download {archive.name} ({'; '.join(faults)}): fetch it by other means and run "
                f"mlflow run . --env-manager local -e prepare -P dataset={card.called} -P source=<its folder>"
            )


def mirrors(card: Card, archive: str) -> list[str]:
    """Return torchvision's addresses for an archive of this data set; empty where it keeps none."""
    from torchvision import datasets

    known = {"mnist_28": datasets.MNIST, "fmnist_28": datasets.FashionMNIST}
    return [mirror + archive for mirror in getattr(known.get(card.name), "mirrors", ())]
