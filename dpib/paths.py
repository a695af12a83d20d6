"""Paths as people write them."""

import hashlib
from pathlib import Path

from dpib.errors import UserError


def written_path(name: str) -> Path:
    """Return the path that `name` is, with `~` and `~user` at its beginning as their homes.

    Raises:
        UserError: when there is no such user.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise UserError(f"{name[:100]}: there is no user of that name here, write ./~ for a folder called so") from None


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file that exists."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
