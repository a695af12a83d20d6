"""The one exception that is meant for people: a single line with the cause and the cure."""

import difflib
import errno
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# safetensors and Python, SQLite, and the two ways of PyTorch's archive writer.
_FULL = ("No space left on device", "database or disk is full", "unexpected pos ", "PytorchStreamWriter failed writing")
_ROOM = 16 * 2**20


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


def is_full(error: BaseException) -> bool:
    """Return whether an exception, or what led to it, says that a disk is full; libraries say it in their own words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if any(words in str(error) for words in _FULL):
        return True
    above = error.__cause__ or error.__context__
    return above is not None and is_full(above)


def explain(error: Exception, places: Iterable[Path] = ()) -> str | None:
    """Say in one line what a full, read-only or mistaken place on disk means; None for any other fault.

    Args:
        error: what a command ended with.
        places: where a command writes: those without room are named when the error names no file.
    """
    name = getattr(error, "filename", None)
    if is_full(error):
        full = [str(place) for place in places if _without_room(place)]
        where = f" while writing {name}" if name else f" ({', '.join(full)})" if full else ""
        return f"the disk is full{where}: free some space and run the same command again, it resumes"
    where = f" while writing {name}" if name else ""
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"no permission{where}: set DPIB_HOME or the data root to a folder that can be written"
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and name:
        return f"{name} is, or lies below, a file where a folder is needed: give another path"
    if error.errno == errno.EISDIR and name:
        return f"{name} is a folder where a file is needed: give another path"
    return None


def _without_room(place: Path) -> bool:
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free < _ROOM
