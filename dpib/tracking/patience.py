"""A tracking client that waits for a store that is locked or away, and says in one line when it gives up."""

import random
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

import mlflow
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import DBAPIError

from dpib.errors import UserError

PATIENCE_SECONDS = 150.0
"""How long a store may be locked or away before a command gives up."""
Answer = TypeVar("Answer")
_LOCKED = ("database is locked", "database table is locked", "database schema is locked")
# How drivers of database servers, and MLflow's client over HTTP, say that nobody answers.
_AWAY = (
    "connection refused", "could not connect", "connection failed", "server closed the connection", "connection reset",
    "terminating connection", "the database system is", "remote end closed", "max retries exceeded",
    "connection aborted", "too many 4", "too many 5", "bad gateway", "service unavailable", "gateway time",
)  # fmt: skip
_FULL = "database or disk is full"
_UNWRITABLE = ("readonly database", "disk i/o error", "unable to open database file")


def patiently(action: Callable[[], Answer], uri: str) -> Answer:
    """Return `action()`, tried again with growing pauses while the store is locked or away.

    Args:
        action: asks the store at `uri`.
        uri: named in the error.

    Raises:
        UserError: when it is still locked or away at the end, or cannot be written.
        MlflowException: any other fault, at once.
        DBAPIError: likewise.
        OSError: likewise.
    """
    end, pause = time.monotonic() + PATIENCE_SECONDS, 0.1
    while True:
        try:
            return action()
        except (MlflowException, DBAPIError, OSError) as error:
            if not isinstance(error, OSError) and (fault := unwritable(error, uri)):
                raise UserError(fault) from None
            ailment = _passing(error)
            if ailment is None:
                raise
            if time.monotonic() > end:
                raise UserError(f"the tracking store {shown(uri)} {ailment}, then run the same command again") from None
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, 5.0)


def unwritable(error: Exception, uri: str) -> str | None:
    """Say in one line that the database at `uri` cannot be written, if that is what `error` says."""
    said = str(error).lower()
    if _FULL in said:
        return f"the disk of {shown(uri)} is full: free some space and run the same command again, it resumes"
    if any(words in said for words in _UNWRITABLE):
        return f"{shown(uri)} cannot be written ({brief(error)}): check the disk, and who may write there"
    return None


def brief(error: Exception) -> str:
    """Return the first line of what an exception says, or its name."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def shown(uri: str) -> str:
    """Return an address without the password in it."""
    return re.sub(r"//([^/@:]*):[^/@]*@", r"//\1:***@", uri)


def _passing(error: Exception) -> str | None:
    """Say what ails a store that may soon be well again; None for any other fault."""
    said = str(error).lower()
    if any(words in said for words in _LOCKED):
        return "was locked by another program all the time: end that program"
    if any(words in said for words in _AWAY):
        return "did not answer all the time: see that it runs"
    return None


class Patient:
    """MLflow's client; every call waits as `patiently` does."""

    def __init__(self, client: mlflow.MlflowClient, uri: str) -> None:
        self._client = client
        self._uri = uri

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return patiently(lambda: method(*args, **kwargs), self._uri)

        return call
