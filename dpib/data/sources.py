"""Readers of official archives: each turns files into the train and test `Images` of a card.

Nothing is unpickled and nothing is extracted to disk: archives are read in place, with caps.
"""

import gzip
import pickletools
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from dpib.data.catalog import BUNDLED, Card
from dpib.data.folders import Say, read_folders, tell
from dpib.data.glyphs import read_glyphs
from dpib.data.store import read_arrays
from dpib.errors import UserError
from dpib.images import Images

Splits = dict[str, Images]
_CAP = 512 * 2**20


def read_source(card: Card, source: Path | None, say: Say = tell) -> Splits:
    """Read `source` (a folder or an archive) as the card says, or as prepared npz files where it holds those.

    Args:
        card: which data set.
        source: none for a bundled one, which comes from nowhere else.
        say: receives what is left out, a line at a time.

    Raises:
        UserError: when a file is missing or corrupt, naming it.
    """
    if source is None:
        return read_digits(card) if card.source.kind == "digits" else read_glyphs(card)
    if card.source.kind in BUNDLED:
        raise UserError(f"{card.name} comes with dpib and takes no source: leave it out, or take another name")
    require_source(source)
    if source.is_dir() and (source / "train.npz").is_file():
        return read_npz(card, source)
    readers: dict[str, Callable[[Card, Path], Splits]] = {
        "idx": read_idx,
        "emnist": read_emnist,
        "cifar": read_cifar,
        "folders": lambda card, source: read_folders(card, source, say),
    }
    return readers[card.source.kind](card, source)


def require_source(source: Path) -> None:
    """Refuse a source that is not there.

    Raises:
        UserError: naming the whole path, whatever it was relative to.
    """
    try:
        there = source.exists()
    except OSError as error:
        raise UserError(f"source {str(source)[:100]} is no path ({error.strerror})") from None
    if not there:
        raise UserError(f"source {source.absolute()} does not exist: give the whole path of a folder or a zip archive")


def read_npz(card: Card, source: Path) -> Splits:
    """Read `train.npz` and, where there is one, `test.npz`.

    Raises:
        UserError: when they are not what the card says, or hold no level but 0 and 1.
    """
    splits = {split: source / f"{split}.npz" for split in ("train", "test")}
    wanted = {split: path for split, path in splits.items() if split == "train" or card.sizes.test}
    found = {split: read_arrays(path, card) for split, path in wanted.items()}
    for split, images in found.items():
        if len(images) and int(images.x.max()) == 1:
            raise UserError(
                f"{splits[split]}: images hold only 0 and 1, which is all but black: scale them to 0 to 255"
            )
    return found


def read_idx(card: Card, source: Path) -> Splits:
    """Read the four IDX files of the MNIST family (LeCun's format), gzipped or not."""
    parts = {
        "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    }
    splits = {}
    for split, (images, labels) in parts.items():
        x, y = _idx(source, images, 3), _idx(source, labels, 1)
        if len(x) != len(y):
            raise UserError(f"{source}: {images} holds {len(x)} images, {labels} {len(y)} labels")
        splits[split] = Images(torch.from_numpy(x)[:, None], torch.from_numpy(y.astype(np.int64)))
    return splits


def read_emnist(card: Card, source: Path) -> Splits:
    """Read the letters of EMNIST: four gzipped IDX files, in a folder or in NIST's `gzip.zip`.

    The files hold every image on its side, and count the letters from 1.
    """
    splits = {}
    for split in ("train", "test"):
        stem = f"emnist-letters-{split}"
        x, y = _emnist_idx(source, f"{stem}-images-idx3-ubyte", 3), _emnist_idx(source, f"{stem}-labels-idx1-ubyte", 1)
        upright = np.ascontiguousarray(x.swapaxes(1, 2))
        splits[split] = Images(torch.from_numpy(upright)[:, None], torch.from_numpy(y.astype(np.int64) - 1))
    return splits


def _emnist_idx(source: Path, stem: str, dimensions: int) -> np.ndarray:
    """Return an IDX file of a folder, or of the zip archive that `source` is or holds."""
    if (source / f"{stem}.gz").is_file():
        return _idx(source, stem, dimensions)
    archive_path = source if source.is_file() else source / "gzip.zip"
    if not archive_path.is_file():
        raise UserError(f"{source} has neither {stem}.gz nor gzip.zip")
    try:
        with zipfile.ZipFile(archive_path) as archive, archive.open(f"gzip/{stem}.gz") as handle:
            raw = _unzipped(handle, archive_path)
    except (zipfile.BadZipFile, zlib.error, KeyError, OSError, EOFError) as error:
        raise UserError(f"{archive_path} is no readable archive with {stem}.gz ({error}): fetch it again") from None
    return _idx_array(raw, dimensions, archive_path)


def _idx(folder: Path, stem: str, dimensions: int) -> np.ndarray:
    path = next((p for p in (folder / f"{stem}.gz", folder / stem) if p.is_file()), None)
    if path is None:
        raise UserError(f"{folder} has no {stem}.gz")
    with path.open("rb") as handle:
        raw = _unzipped(handle, path) if path.suffix == ".gz" else handle.read(_CAP)
    return _idx_array(raw, dimensions, path)


def _unzipped(handle: IO[bytes], path: Path) -> bytes:
    try:
        with gzip.open(handle) as content:
            return content.read(_CAP)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is corrupt ({error}): fetch it again") from None


def _idx_array(raw: bytes, dimensions: int, path: Path) -> np.ndarray:
    head = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(raw[4:head], dtype=">i4").tolist())
    if raw[:4] != bytes([0, 0, 8, dimensions]) or len(raw) - head != int(np.prod(shape, dtype=np.int64)):
        raise UserError(f"{path} is corrupt (its header does not match its {len(raw)} bytes): fetch it again")
    return np.frombuffer(raw, dtype=np.uint8, offset=head).reshape(shape).copy()


def read_cifar(card: Card, source: Path) -> Splits:
    """Read CIFAR's "python" tar in place."""
    path = source if source.is_file() else source / card.source.archives[0].name
    if not path.is_file():
        raise UserError(f"{source} has no {card.source.archives[0].name}")
    batches: dict[str, tuple[np.ndarray, list[int]]] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = Path(member.name).name
                if name.startswith(("data_batch", "test_batch")) and member.isfile() and member.size < _CAP:
                    handle = archive.extractfile(member)
                    assert handle is not None
                    batches[name] = cifar_batch(handle.read(), f"{path}:{name}")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path} is corrupt ({error}): fetch it again") from None
    train = sorted(name for name in batches if name.startswith("data_batch"))
    if len(train) != 5 or "test_batch" not in batches:
        raise UserError(f"{path} is not CIFAR's python archive: it holds {', '.join(batches) or 'no batches'}")
    return {"train": _joined([batches[name] for name in train]), "test": _joined([batches["test_batch"]])}


def _joined(batches: list[tuple[np.ndarray, list[int]]]) -> Images:
    x = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, 3, 32, 32)
    return Images(torch.from_numpy(x), torch.tensor([label for _, labels in batches for label in labels]))


def cifar_batch(raw: bytes, source: str) -> tuple[np.ndarray, list[int]]:
    """Return pixels uint8 [n, 3072] and labels of one batch without unpickling it.

    A batch is a pickled dictionary. Its operations are listed, never executed: the pixels are the one
    long string in it, the labels the integers that follow the string 'labels'.
    """
    pixels, labels, collecting = b"", [], False
    try:
        for operation, argument, _ in pickletools.genops(raw):
            text = argument.encode("latin-1") if isinstance(argument, str) else argument
            if isinstance(text, bytes):
                collecting = text in (b"labels", b"fine_labels")
                pixels = text if len(text) > len(pixels) else pixels
            elif collecting and isinstance(text, int) and operation.name in ("BININT", "BININT1", "BININT2"):
                labels.append(text)
    except ValueError as error:
        raise UserError(f"{source} is corrupt ({error}): fetch the archive again") from None
    if not labels or len(pixels) != 3072 * len(labels):
        raise UserError(f"{source} is corrupt: {len(pixels)} bytes of pixels for {len(labels)} labels")
    return np.frombuffer(pixels, dtype=np.uint8).reshape(len(labels), 3072).copy(), labels


def read_digits(card: Card) -> Splits:
    """Upscale scikit-learn's bundled 8x8 handwritten digits (Alpaydin and Kaynak 1998) and split them."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    x = torch.from_numpy(bunch.images).float()[:, None] / 16
    x = torch.nn.functional.interpolate(x, size=card.shape[1:], mode="bicubic", align_corners=False)
    images = Images((x.clamp(0, 1) * 255).round().to(torch.uint8), torch.from_numpy(bunch.target).long())
    # The images stand in the order of collection: every sixth one makes a test set from all of it.
    test = torch.arange(len(images)) % 6 == 5
    return {"train": images.take(~test), "test": images.take(test)}
