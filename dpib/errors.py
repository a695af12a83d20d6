"""The one exception that is meant for people: a single line with the cause and the cure."""

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Something the user can put right; entry points print it as one line, without a traceback."""


class Faults:
    """User errors that are collected, to be reported together in one line."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Keep a user error that is raised inside, and go on."""
        try:
            yield
        except UserError as error:
            self._lines.append(str(error))

    def add(self, line: str) -> None:
        """Keep a fault of its own."""
        self._lines.append(line)

    def refuse(self) -> None:
        """Raise what was kept, if anything was.

        Raises:
            UserError: every fault once, parted by semicolons.
        """
        if self._lines:
            raise UserError("; ".join(dict.fromkeys(self._lines)))


def absence(path: Path) -> str:
    """Say why there is no file at `path`."""
    return "is a folder, not a file" if path.is_dir() else "does not exist"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known word closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def explain_os_error(error: OSError) -> str | None:
    """Say in one line what a full or read-only disk means; None for any other fault."""
    where = f" while writing {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}: free some space and run the same command again, it resumes"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"no permission{where}: set DPIB_HOME or the data root to a folder that can be written"
    return None
