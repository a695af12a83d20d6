"""From official archives, given locally or downloaded, to the data root."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import yaml

from dpib.atomic import write_text
from dpib.data import store
from dpib.data.catalog import BUNDLED, Card, Sizes, Source, find_card
from dpib.data.folders import class_folders
from dpib.data.sources import read_source
from dpib.errors import UserError
from dpib.images import Images

Say = Callable[[str], None]


def prepare(card: Card, source: Path | None, root: Path, say: Say, verify: bool = True) -> dict[str, Images]:
    """Write `<root>/<name>/{train,test}.npz` and return the splits.

    Args:
        card: which data set.
        source: a folder or archive with the official files, or None to download them.
        root: the data root.
        say: receives progress, a line at a time.
        verify: refuse content that differs from the published one (by the card's checksums).

    Raises:
        UserError: for missing, corrupt or foreign files, or a failed download.
    """
    if source is None and card.source.archives:
        with tempfile.TemporaryDirectory(prefix="dpib-") as folder:
            download(card, Path(folder), say)
            splits = read_source(card, Path(folder))
    elif source is None and card.source.kind not in BUNDLED:
        raise UserError(f"{card.name} has no download: give -P source=<folder or archive>")
    else:
        splits = read_source(card, source or Path())
    _check(card, splits, verify)
    for split, images in splits.items():
        path = store.write_split(root, card, split, images)
        say(f"{path}: {len(images)} images {list(images.shape)}")
    return splits


def ensure(card: Card, root: Path) -> None:
    """Prepare a data set that needs no files (the bundled ones) if that was not done yet."""
    if card.source.kind in BUNDLED and not store.split_path(root, card.name, "train").is_file():
        prepare(card, None, root, lambda _: None)


def _check(card: Card, splits: dict[str, Images], verify: bool) -> None:
    for split, images in splits.items():
        expected = card.sizes.train if split == "train" else card.sizes.test
        if len(images) != expected:
            raise UserError(f"{card.name} has {expected} images in {split}, the source holds {len(images)}")
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
                f"mlflow run . --env-manager local -e prepare -P dataset={card.name} -P source=<its folder>"
            )


def mirrors(card: Card, archive: str) -> list[str]:
    """Return torchvision's addresses for an archive of this data set; empty where it keeps none."""
    from torchvision import datasets

    known = {"mnist_28": datasets.MNIST, "fmnist_28": datasets.FashionMNIST}
    return [mirror + archive for mirror in getattr(known.get(card.name), "mirrors", ())]


def card_for(name: str, source: Path | None, root: Path, side: int, gray: bool) -> Card:
    """Return the card of a known data set, or write one for the user's own image folder `source`.

    Raises:
        UserError: when the name is unknown and `source` is no folder of class folders.
    """
    try:
        return find_card(name, root)
    except UserError:
        if source is None or not source.is_dir():
            raise
    draft = Card(
        name=name,
        title=name,
        shape=(1 if gray else 3, side, side),
        classes=class_folders(source),
        sizes=Sizes(train=1, test=1),
        source=Source(kind="folders"),
        citation="your own images",
        licence="your own",
        homepage="",
    )
    # Sizes are counted by reading once: unreadable images are found before anything is written.
    splits = read_source(draft, source)
    n = {split: len(images) for split, images in splits.items()}
    card = draft.model_copy(update={"sizes": Sizes(**n), "holdout": n["train"] // 10})
    write_text(root / name / "card.yaml", yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False))
    return find_card(name, root)
