"""Read .npz files that may come from anywhere: headers are checked before a byte of data is unpacked."""

import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from dpib.errors import UserError, absence

_DTYPES = "uif"  # unsigned, signed, float; text is allowed where it is asked for
_CAP = 64 * 2**30


class Header(NamedTuple):
    """What an array claims to be."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def headers(path: Path) -> dict[str, Header]:
    """Return name -> header of every array in the file, checked against the sizes in its directory.

    Raises:
        UserError: when the file is missing, truncated, no npz, or claims what it cannot hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    continue
                with archive.open(member) as handle:
                    found[member.filename.removesuffix(".npy")] = _header(handle, member, path)
            return found
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path} {absence(path)}") from None
    except (zipfile.BadZipFile, EOFError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable npz file ({error}): it may be truncated, make it again") from None


def _header(handle: Any, member: zipfile.ZipInfo, path: Path) -> Header:
    version = npy.read_magic(handle)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(handle)
    if dtype.hasobject:
        raise UserError(f"{path}: array {member.filename} holds Python objects, which are never loaded")
    size = math.prod(shape) * dtype.itemsize
    if size + handle.tell() != member.file_size or size > _CAP:
        raise UserError(f"{path}: array {member.filename} claims {size} bytes, its entry has {member.file_size}")
    return Header(shape, dtype)


def load(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the named arrays after `headers` has passed the file.

    Raises:
        UserError: when one is missing or its bytes are corrupt.
    """
    known = headers(path)
    missing = [name for name in names if name not in known]
    if missing:
        raise UserError(f"{path} has no array {missing[0]!r}; it holds {', '.join(known) or 'nothing'}")
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in names}
    except (zipfile.BadZipFile, EOFError, ValueError, OSError, zipfile.LargeZipFile) as error:
        raise UserError(f"{path} is corrupt ({error}): make or fetch it again") from None
