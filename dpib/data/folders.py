"""Image folders, the layout that everybody has: one folder per class, plain or inside zip archives."""

import io
import stat
import warnings
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from dpib import seeding
from dpib.data.catalog import Card
from dpib.data.resize import fitted
from dpib.errors import UserError
from dpib.images import Images

_SUFFIXES = (".png", ".jpg", ".jpeg")
_MAX_PIXELS = 2**24
_MAX_BYTES = 64 * 2**20  # of one image in an archive
_MAX_RATIO = 200  # of an image's size to its compressed size; PNG and JPEG hardly shrink
_MAX_MEMBERS = 10_000_000
_TEST_SHARE = 0.1


def read_folders(card: Card, source: Path) -> dict[str, Images]:
    """Read `<class>/<image>` below `source`, below its `train` and `test` folders, or in zip archives.

    Without a `test` folder a seeded tenth of every class becomes the test set, if the card wants one.

    Raises:
        UserError: when a class is missing, or an image cannot be read.
    """
    members = sorted(_members(card, source), key=lambda member: member[0].as_posix())
    train, test = ([m for m in members if split in m[0].parts] for split in ("train", "test"))
    if card.sizes.test == 0:
        return {"train": _read(card, train or members)}
    if not (train and test):
        order = torch.randperm(len(members), generator=seeding.generator(0, "folder test split")).tolist()
        cut = round(_TEST_SHARE * len(members))
        test, train = ([members[i] for i in sorted(part)] for part in (order[:cut], order[cut:]))
    return {"train": _read(card, train), "test": _read(card, test)}


Member = tuple[PurePosixPath, Path | zipfile.Path]


def _members(card: Card, source: Path) -> Iterator[Member]:
    archives = [source] if source.is_file() else [source / a.name for a in card.source.archives]
    archives = [path for path in archives if path.is_file()]
    if not archives and source.is_dir():
        for path in source.rglob("*"):
            if path.suffix.lower() in _SUFFIXES:
                yield PurePosixPath(path.relative_to(source).as_posix()), path
        return
    for archive in archives:
        try:
            content = zipfile.ZipFile(archive)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{archive} is not a readable zip archive ({error}): fetch it again") from None
        if len(content.infolist()) > _MAX_MEMBERS:
            raise UserError(f"{archive} has more than {_MAX_MEMBERS} entries, which is no set of images")
        for info in content.infolist():
            if PurePosixPath(info.filename).suffix.lower() in _SUFFIXES:
                _refuse_bomb(info, archive)
                yield PurePosixPath(info.filename), zipfile.Path(content, info.filename)


def _refuse_bomb(info: zipfile.ZipInfo, archive: Path) -> None:
    """Refuse an entry that would unpack to far more than an image, or that is a link."""
    if info.file_size > _MAX_BYTES or info.file_size > _MAX_RATIO * max(1, info.compress_size):
        raise UserError(
            f"{archive}: {info.filename} unpacks from {info.compress_size} to {info.file_size} bytes: no image does"
        )
    if stat.S_ISLNK(info.external_attr >> 16):
        raise UserError(f"{archive}: {info.filename} is a symbolic link, which dpib does not follow")


def _read(card: Card, members: list[Member]) -> Images:
    index = {name: i for i, name in enumerate(card.classes)}
    pixels, labels = [], []
    for name, place in members:
        label = _label(name, index)
        if label is not None:
            pixels.append(read_image(place.read_bytes(), card.shape, str(name)))
            labels.append(label)
    absent = sorted(set(range(len(card.classes))) - set(labels))
    if absent:
        raise UserError(f"no image of class {card.classes[absent[0]]!r} found: expected <class>/<image>.png or .jpg")
    x = np.stack(pixels)
    return Images(torch.from_numpy(255 - x if card.source.invert else x), torch.tensor(labels))


def _label(name: PurePosixPath, index: dict[str, int]) -> int | None:
    """Return the class that the folders above an image name; a class may be two folders, as alphabet/letter."""
    folders = name.parts[:-1]
    names = [*reversed(folders), *("/".join(pair) for pair in pairwise(folders))]
    return next((index[part] for part in names if part in index), None)


def read_image(raw: bytes, shape: tuple[int, int, int], name: str) -> np.ndarray:
    """Decode a PNG or JPEG, cut its central square, and resize it: uint8 [c, h, w].

    Raises:
        UserError: when it is no such image, or larger than 16 megapixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(raw), formats=("PNG", "JPEG"))
        if opened.width * opened.height > _MAX_PIXELS:
            raise UserError(f"{name}: {opened.width} x {opened.height} pixels are more than dpib reads")
        image = opened.convert("L" if shape[0] == 1 else "RGB")
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise UserError(f"{name} cannot be read as PNG or JPEG ({error})") from None
    return fitted(image, shape)


def class_folders(source: Path) -> list[str]:
    """Return the names of the class folders below `source` (or below its `train` folder), sorted.

    Raises:
        UserError: when there are fewer than two.
    """
    top = source / "train" if (source / "train").is_dir() else source
    names = sorted(p.name for p in top.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise UserError(f"{top} has no class folders: expected <class>/<image>.png or .jpg for two classes or more")
    return names
