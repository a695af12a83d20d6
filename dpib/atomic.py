"""Write files so that a reader sees either the old or the whole new content, whatever happens in between."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dpib.errors import is_full


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed over `path`.

    On any exception the temporary file is removed and `path` stays as it was.

    Raises:
        OSError: with the path in it, when the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept last: numpy and others append their own to names without it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if is_full(error) and not getattr(error, "filename", None):  # libraries do not name it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path` by `text` (UTF-8) in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
