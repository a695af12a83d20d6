"""Public images for pretraining, brought to the shape of the sensitive ones."""

import hashlib

from dpib.data import store
from dpib.data.catalog import Card, Sizes, Source, data_root, find_card
from dpib.data.folders import class_folders
from dpib.data.prepare import ensure
from dpib.data.resize import fit
from dpib.data.sources import read_source
from dpib.errors import UserError
from dpib.images import Images
from dpib.paths import file_hash, written_path


def read_public(name: str, shape: tuple[int, int, int], configured_root: str | None) -> Images:
    """Return the public training images `name` (a data set, or the path of an image folder) as `shape`.

    Raises:
        UserError: when the data set is unknown or not prepared, or the folder is none of images.
    """
    folder = written_path(name)
    if folder.is_dir():
        card = Card(
            name="folder",
            title=name,
            shape=shape,
            classes=class_folders(folder),
            sizes=Sizes(train=1, test=0),
            source=Source(kind="folders"),
            citation="",
            licence="",
            homepage="",
        )
        return read_source(card, folder)["train"]
    root = data_root(configured_root)
    card = find_card(name, root)
    ensure(card, root)
    return adapt(store.read_split(root, card, "train"), shape)


def public_classes(name: str, configured_root: str | None) -> tuple[str, ...]:
    """Return the names of a public set's classes; reads no image.

    Raises:
        UserError: when the data set is unknown, or the folder is none of images.
    """
    folder = written_path(name)
    names = class_folders(folder) if folder.is_dir() else find_card(name, data_root(configured_root)).classes
    return tuple(names)


def public_digest(name: str, configured_root: str | None) -> str:
    """Return a SHA-256 of the files of a public set, which tells it from another one under its name.

    Raises:
        UserError: when the data set is unknown or not prepared.
    """
    folder, digest = written_path(name), hashlib.sha256()
    if folder.is_dir():
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(folder)}:{file_hash(path)}\n".encode())
        return digest.hexdigest()
    root = data_root(configured_root)
    card = find_card(name, root)
    ensure(card, root)
    path = store.split_path(root, card.name, "train")
    if not path.is_file():
        raise UserError(store.missing(card, path))
    return file_hash(path)


def adapt(images: Images, shape: tuple[int, int, int]) -> Images:
    """Bring images to `shape` exactly as preparing a folder of them would."""
    return images if images.shape == shape else Images(fit(images.x, shape), images.y)
