"""Paths as people write them."""

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
