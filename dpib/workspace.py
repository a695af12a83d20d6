"""The local folder of a stage that is not finished: what a killed run leaves behind and resumes from.

It may hold what must not leave this machine (counts on validation images), so only the user can read it,
and it disappears when the stage is done.
"""

import fcntl
import json
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from dpib.atomic import write_text
from dpib.errors import UserError


class Busy(UserError):
    """Another process is at work on the same stage; it is worth waiting for."""


class Workspace:
    """The folder of one stage's work below the home, held by one process at a time."""

    def __init__(self, root: Path, key: str) -> None:
        self.folder = root / key
        self._lock_path = root / f"{key}.lock"
        self._lock: IO[str] | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._lock_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = self._lock_path.open("w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            raise Busy(
                f"another process is at work on this very stage (it holds {self._lock_path}): wait for it or stop it"
            ) from None
        self._lock = handle
        self._make()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        self._lock.close()

    def _make(self) -> None:
        for folder in (self.folder, self.artifacts, self.private):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def artifacts(self) -> Path:
        """What becomes the run's artifacts."""
        return self.folder / "artifacts"

    @property
    def private(self) -> Path:
        """What never leaves this machine."""
        return self.folder / "private"

    @property
    def notes(self) -> dict[str, Any]:
        """What `note` wrote: the run's id and tracking address, and the seconds worked before."""
        path = self.folder / "notes.json"
        return dict(json.loads(path.read_text())) if path.is_file() else {}

    def note(self, **values: Any) -> None:
        """Add to the notes."""
        write_text(self.folder / "notes.json", json.dumps({**self.notes, **values}))

    @property
    def inode(self) -> int:
        """What tells this folder from a copy of it."""
        return self.folder.stat().st_ino

    def seconds(self) -> float:
        """Return the time worked on this stage, earlier attempts included."""
        return float(self.notes.get("seconds", 0.0)) + time.monotonic() - self._began

    def pause(self) -> None:
        """Write down the time worked so far."""
        self.note(seconds=self.seconds())
        self._began = time.monotonic()

    def clear(self) -> None:
        """Forget everything: the stage is finished, or is started afresh."""
        shutil.rmtree(self.folder)
        self._make()
        self._began = time.monotonic()

    def remove(self) -> None:
        """Delete the folder and its lock file."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock_path.unlink(missing_ok=True)
