"""Who started this process: `mlflow run`, torchrun or a launcher of ours. It does not outlive whoever that was."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = "DPIB_LAUNCHER"
"""The environment variable in which a launcher of ours tells its children its process id."""
_MLFLOW = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_URI")
_POLL_SECONDS = 0.5
_REQUEST_SECONDS = 2.0
_REQUESTS = 90


@dataclass(frozen=True)
class Process:
    """A process of this machine; `started` tells it from a later one of the same id."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "Process":
        """Return the process that has this id now."""
        return cls(pid, started(pid))

    def lives(self) -> bool:
        """Return whether it is there still."""
        return started(self.pid) == self.started != ""


def started(pid: int) -> str:
    """Return when a process started, in kernel ticks; empty where there is none, or no /proc."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] not in "ZX" else ""


def mlflow_run() -> Process | None:
    """Return the `mlflow run` that this process works for, or None.

    Shells and environment managers stand between the two, and have the run's id in their environment as well.
    """
    if not all(name in os.environ for name in _MLFLOW):
        return None
    mark, pid = f"MLFLOW_RUN_ID={os.environ['MLFLOW_RUN_ID']}".encode(), os.getppid()
    try:
        while pid and mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            pid = int(_stat(pid)[1])
        # An interpreter: not the shell of somebody who set these variables by hand.
        python = Path(f"/proc/{pid}/exe").readlink().name.startswith("python")
    except (OSError, IndexError):
        return None
    return Process.of(pid) if python else None


def return_to_caller() -> None:
    """Go to the folder in which `mlflow run` was called: it starts its commands in the project's, or a clone's.

    Relative paths and a local store are then those of whoever gave the command.
    """
    launcher = mlflow_run()
    if launcher is not None:
        with suppress(OSError):  # a folder that is gone, or another user's process
            os.chdir(Path(f"/proc/{launcher.pid}/cwd").readlink())


def hold() -> None:
    """End this process soon after the one that started it as part of a larger command has ended, by -9 included.

    It is asked to end as by SIGTERM, and killed where it does not. A process that a person started is let alone.
    """
    known, parent = os.environ.get(LAUNCHER), os.getppid()
    if known is not None and int(known) != parent:
        sys.exit("the process that started this one is gone")
    if known is not None or "TORCHELASTIC_RUN_ID" in os.environ:
        _watch(lambda: os.getppid() == parent)
    elif (launcher := mlflow_run()) is not None:
        _watch(launcher.lives)


def _watch(lives: Callable[[], bool]) -> None:
    def watch() -> None:
        while lives():
            time.sleep(_POLL_SECONDS)
        # Again and again: what a handler raises is lost where it meets a bare `except`, as in some imports.
        for _ in range(_REQUESTS):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_REQUEST_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()


def _stat(pid: int) -> list[str]:
    """Return what /proc says of a process, from its state on; nothing where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
