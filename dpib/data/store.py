"""Prepared data on disk: `<data root>/<name>/{train,test}.npz`, written once, checked whenever read."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from dpib.atomic import replacing
from dpib.data import npz
from dpib.data.catalog import BUNDLED, Card
from dpib.errors import UserError
from dpib.images import Images

SPLITS = ("train", "test")


def split_path(root: Path, name: str, split: str) -> Path:
    """Return the file of one split."""
    return root / name / f"{split}.npz"


def write_split(root: Path, card: Card, split: str, images: Images) -> Path:
    """Write one split in the prepared layout, atomically, and return its path."""
    path = split_path(root, card.name, split)
    with replacing(path) as temporary, temporary.open("wb") as handle:
        content = arrays(images)
        np.savez(handle, images=content["images"], labels=content["labels"], class_names=np.asarray(card.classes))
    return path


def arrays(images: Images) -> dict[str, np.ndarray]:
    """Return images and labels as the prepared layout holds them."""
    pixels = images.x.permute(0, 2, 3, 1).numpy() if images.shape[0] == 3 else images.x[:, 0].numpy()
    return {"images": np.ascontiguousarray(pixels), "labels": images.y.numpy()}


def read_split(root: Path, card: Card, split: str) -> Images:
    """Return one prepared split, checked against its card.

    Raises:
        UserError: when it is missing (says which files to put where), corrupt, or not what the card says.
    """
    path = split_path(root, card.name, split)
    if not path.is_file():
        raise UserError(missing(card, path))
    images = read_arrays(path, card)
    expected = card.sizes.train if split == "train" else card.sizes.test
    if len(images) != expected:
        raise UserError(f"{path} holds {len(images)} images, {card.name} has {expected} in {split}: prepare it again")
    return images


def read_arrays(path: Path, card: Card) -> Images:
    """Return `images` and `labels` of an npz in the prepared layout, checked against the card's shape."""
    found = npz.load(path, ("images", "labels"))
    pixels, labels = found["images"], found["labels"]
    c, h, w = card.shape
    wanted = (h, w) if c == 1 else (h, w, 3)
    if pixels.dtype != np.uint8 or pixels.shape[1:] != wanted:
        raise UserError(
            f"{path}: images are {pixels.dtype} {list(pixels.shape)}, {card.name} needs uint8 "
            f"[n, {', '.join(map(str, wanted))}]"
        )
    if labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu":
        raise UserError(f"{path}: labels are {labels.dtype} {list(labels.shape)}, need integers [{len(pixels)}]")
    if len(labels) and (labels.min() < 0 or labels.max() >= len(card.classes)):
        raise UserError(
            f"{path}: labels go from {labels.min()} to {labels.max()}, "
            f"{card.name} has classes 0 to {len(card.classes) - 1}"
        )
    x = torch.from_numpy(pixels)
    x = x[:, None] if c == 1 else x.permute(0, 3, 1, 2).contiguous()
    return Images(x, torch.from_numpy(labels.astype(np.int64)))


def read_pixels(path: Path) -> Images:
    """Return the images of any prepared split, whatever its card; the labels are all 0."""
    pixels = torch.from_numpy(npz.load(path, ("images",))["images"])
    x = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Images(x, torch.zeros(len(x), dtype=torch.int64))


def missing(card: Card, path: Path) -> str:
    """Say in one line which files to put where."""
    prepare = f"mlflow run . --env-manager local -e prepare -P dataset={card.called}"
    files = ", ".join(archive.name for archive in card.source.archives)
    if files:
        given = f"{prepare} -P source=<folder with {files}> (without source it downloads them)"
    elif card.source.kind in BUNDLED:
        given = prepare
    else:
        given = f"{prepare} -P source=<folder with one folder per class, or with train.npz and test.npz>"
    return f"{card.title} is not prepared: {path} does not exist. Run: {given}"


def digest(images: Images) -> str:
    """Return a SHA-256 of the images and labels as they are, to notice changed data; stays on this machine."""
    sha = hashlib.sha256(np.ascontiguousarray(images.x.numpy()).data)
    sha.update(np.ascontiguousarray(images.y.numpy()).data)
    return sha.hexdigest()


def checksum(images: Images) -> str:
    """Return a SHA-256 that is the same for every order of the records (mirrors differ in it)."""
    pixels = images.x.permute(0, 2, 3, 1).contiguous().numpy()
    records = zip(pixels, images.y.tolist(), strict=True)
    each = sorted(hashlib.sha256(x.tobytes() + y.to_bytes(8, "little")).digest() for x, y in records)
    return hashlib.sha256(b"".join(each)).hexdigest()
