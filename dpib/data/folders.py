"""Image folders, the layout that everybody has: one folder per class, plain or inside zip archives."""

import io
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from dpib import seeding
from dpib.data.catalog import Card
from dpib.data.listing import MAX_BYTES, Listing, Member, listed
from dpib.data.resize import fitted
from dpib.errors import UserError
from dpib.images import Images

_FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM")  # no other program is started for any of them
_MAX_PIXELS = 2**24
_TEST_SHARE = 0.1
_LAYOUT = "expected <class>/<image>.png, .jpg, .tif, .webp, .bmp, .gif or .ppm"

Say = Callable[[str], None]


def tell(text: str) -> None:
    """Print a line for whoever watches."""
    print(text, file=sys.stderr, flush=True)


def read_folders(card: Card, source: Path, say: Say = tell) -> dict[str, Images]:
    """Read `<class>/<image>` below `source`, below its folders of splits, or in zip archives.

    The topmost folders may name splits: `train`, `test` and `val`, in any case and in their usual longer
    forms. Without `test` the images of `val` are the test set; with neither a seeded tenth of every class
    becomes it, if the card wants one. Files that are no images by their names are counted, for `say`.

    Raises:
        UserError: when a class or a split is missing, or an image cannot be read.
    """
    listing = listed(source, _archives(card, source))
    if skipped := listing.skipped():
        say(f"{card.name}: {skipped}")
    parts = {split: _labelled(card, members, split) for split, members in listing.parts().items()}
    if stray := len(listing.images) - sum(len(part) for part in parts.values()):
        say(f"{card.name}: left out {stray} images that lie in no class folder")
    train, test = _splits(card, parts, say)
    wanted = {"train": train, "test": test} if card.sizes.test else {"train": train}
    _refuse_absent(card, wanted, listing)
    return {split: _read(card, records) for split, records in wanted.items()}


Labelled = list[tuple[Member, int]]


def _archives(card: Card, source: Path) -> list[Path]:
    archives = [source] if source.is_file() else [source / archive.name for archive in card.source.archives]
    return [path for path in archives if path.is_file()]


def _labelled(card: Card, members: list[Member], split: str) -> Labelled:
    index = {name: i for i, name in enumerate(card.classes)}
    found = ((member, label(member, index, split)) for member in members)
    return [(member, known) for member, known in found if known is not None]


def label(member: Member, index: dict[str, int], split: str) -> int | None:
    """Return the class that the folders above an image name; a class may be two folders, as alphabet/letter.

    The outermost folder that names a class counts; where there are no splits, folders that wrap all may be
    a part of the name.
    """
    for path in (member.below,) if split else (member.below, member.name):
        folders = path.parts[:-1]
        for name in (*folders, *("/".join(pair) for pair in pairwise(folders))):
            if name in index:
                return index[name]
    return None


def _splits(card: Card, parts: dict[str, Labelled], say: Say) -> tuple[Labelled, Labelled]:
    """Return the images of train and test.

    Raises:
        UserError: when there is a test set and nothing to train on, or an empty test folder.
    """
    outside, train = parts.get("", []), parts.get("train")
    if train is None and len(parts.keys() - {""}) > 0:
        raise UserError(f"{card.name}: there is a folder {next(iter(parts.keys() - {''}))!r} and none called 'train'")
    if train is not None and outside:
        raise UserError(
            f"{card.name}: {len(outside)} images lie in class folders beside 'train', as {outside[0][0].name}: "
            "put every class folder below train or test"
        )
    everything = outside if train is None else train
    if card.sizes.test == 0:
        return everything, []
    held_out = next((split for split in ("test", "val") if split in parts), None)
    if held_out is None:
        say(f"{card.name}: there is no folder 'test': a tenth of every class becomes the test set")
        return _stratified(card, everything)
    if not parts[held_out]:
        raise UserError(f"{card.name}: folder {held_out!r} holds no image of a class: fill it or take it away")
    if held_out == "val":
        say(f"{card.name}: there is no folder 'test': 'val' becomes the test set")
    elif parts.get("val"):
        say(f"{card.name}: left out {len(parts['val'])} images of 'val': dpib holds out a part of 'train' by itself")
    return everything, parts[held_out]


def _stratified(card: Card, records: Labelled) -> tuple[Labelled, Labelled]:
    """Return (train, test) with a seeded tenth of every class, and at least one image of it, in test.

    Raises:
        UserError: when a class has a single image.
    """
    held_out: set[int] = set()
    for k, name in enumerate(card.classes):
        own = [i for i, (_, known) in enumerate(records) if known == k]
        if len(own) == 1:
            raise UserError(f"class {name!r} has one image: one to train on and one to test with are the least")
        order = torch.randperm(len(own), generator=seeding.generator(0, "folder test split", k)).tolist()
        held_out.update(own[i] for i in order[: max(1, round(_TEST_SHARE * len(own)))])
    return (
        [record for i, record in enumerate(records) if i not in held_out],
        [record for i, record in enumerate(records) if i in held_out],
    )


def _refuse_absent(card: Card, splits: dict[str, Labelled], listing: Listing) -> None:
    present = {split: {known for _, known in records} for split, records in splits.items()}
    for split, found in present.items():
        absent = sorted(set(range(len(card.classes))) - found)
        if absent:
            others = [other for other in present if absent[0] in present[other]]
            where = f" in {split}, only in {others[0]}" if others else " found"
            raise UserError(f"no image of class {card.classes[absent[0]]!r}{where}{listing.but()}: {_LAYOUT}")


def _read(card: Card, records: Labelled) -> Images:
    x = np.stack([read_image(_bytes(member), card.shape, str(member.name)) for member, _ in records])
    labels = torch.tensor([known for _, known in records])
    return Images(torch.from_numpy(255 - x if card.source.invert else x), labels)


def _bytes(member: Member) -> bytes:
    try:
        with member.place.open("rb") as handle:
            raw = handle.read(MAX_BYTES + 1)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{member.name} cannot be read ({error})") from None
    if len(raw) > MAX_BYTES:
        raise UserError(f"{member.name} has more than {MAX_BYTES} bytes, which is no image")
    return raw


def read_image(raw: bytes, shape: tuple[int, int, int], name: str) -> np.ndarray:
    """Decode an image and turn it upright, cut its central square, and resize it: uint8 [c, h, w].

    Gray levels of 16 bits are scaled to 8, black to black and white to white.

    Raises:
        UserError: when it is no such image, holds several, or is larger than 16 megapixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(raw), formats=_FORMATS)
            _refuse_unusual(opened, name)
            image = _eight_bits(ImageOps.exif_transpose(opened)).convert("L" if shape[0] == 1 else "RGB")
    except (
        OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, ArithmeticError, MemoryError, RuntimeError,
        struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).replace(str(type(error)), "").split())[:120]
        raise UserError(f"{name} cannot be read as an image ({reason})") from None
    return fitted(image, shape)


def _refuse_unusual(opened: Image.Image, name: str) -> None:
    """Refuse what would be read as something else than people see."""
    if opened.width * opened.height > _MAX_PIXELS:
        raise UserError(f"{name}: {opened.width} x {opened.height} pixels are more than dpib reads")
    frames = getattr(opened, "n_frames", 1)
    # A telephone's JPEG may bring a preview; it is a JPEG for all that.
    if frames > 1 and opened.format not in ("JPEG", "MPO"):
        raise UserError(f"{name} holds {frames} images: save them one to a file")
    if opened.mode == "F" or (opened.mode == "I" and opened.format != "PPM"):
        raise UserError(f"{name} has levels of 32 bits, whose white is unknown: save it with 8 or 16")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit gray as 8-bit gray, since Pillow clips it instead; anything else as it is."""
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    levels = np.asarray(image).astype(np.float64)
    return Image.fromarray((levels.clip(0, 65535) / 257).round().astype(np.uint8))


def class_folders(source: Path) -> list[str]:
    """Return the names of the class folders of a folder or zip archive, sorted; see `read_folders`.

    Raises:
        UserError: when there are fewer than two.
    """
    listing = listed(source, [source] if source.is_file() else [])
    names = listing.classes()
    if len(names) < 2:
        raise UserError(f"{source} has no class folders for two classes or more{listing.but()}: {_LAYOUT}")
    return names
