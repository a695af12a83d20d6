"""The one exception that is meant for people: a single line with the cause and the cure."""

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right; entry points print it as one line, without a traceback."""


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
