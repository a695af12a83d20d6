"""Open a tracking address, or say in one line and within seconds why it does not open."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from dpib import database
from dpib.errors import UserError
from dpib.tracking import moved
from dpib.tracking.patience import Patient, brief, patiently, shown

_ANSWER_SECONDS = 10

# MLflow prints the traceback of every fault of a database, also of one that passes; faults are raised all the same.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def open_client(uri: str) -> Patient:
    """Return a client of the store at a tracking address, made if it is a new local one.

    Raises:
        UserError: when there is something else there, half of a store, or nobody who answers.
    """
    if uri.startswith(("http://", "https://")):
        _ask(uri)
        return Patient(mlflow.MlflowClient(uri), uri)
    try:
        with _one_at_a_time(uri):
            if uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
                database.check(uri, "the tracking store", "check MLFLOW_TRACKING_URI")
            if (file := database_file(uri)) is not None:
                patiently(lambda: moved.mend(file), uri)
            client = patiently(lambda: mlflow.MlflowClient(uri), uri)
    except Exception as error:
        from alembic.util.exc import CommandError  # a third of a second, when something is wrong only

        if isinstance(error, SQLAlchemyError | CommandError | MlflowException | OSError):
            raise UserError(_broken(uri, error)) from None
        raise
    return Patient(client, uri)


def _ask(uri: str) -> None:
    """Ask a server for one experiment, once: MLflow's own client would try for minutes before it says anything."""
    endpoint, wanted = "/api/2.0/mlflow/experiments/search", {"max_results": 1}
    try:
        answer = http_request(
            get_default_host_creds(uri), endpoint, "POST", max_retries=0, timeout=_ANSWER_SECONDS, json=wanted
        )
        verify_rest_response(answer, endpoint)
        answer.json()
    except (MlflowException, ValueError, OSError) as error:
        raise UserError(
            f"no MLflow server answers at {shown(uri)} ({_reason(error)}): check MLFLOW_TRACKING_URI, "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        ) from None


def _reason(error: Exception) -> str:
    """Return what MLflow's account of a failed request comes down to."""
    said = brief(error)
    for words in ("Name or service not known", "Name does not resolve", "name resolution", "Connection refused"):
        if words in said:
            return words
    return said if len(said) < 200 else f"{said[:200]}..."


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Keep other processes from a database file while its tables are made: MLflow lets two of them trip."""
    file = database_file(uri)
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def database_file(uri: str) -> Path | None:
    """Return the file of an sqlite address; None for any other, and for one in memory."""
    if not uri.startswith("sqlite:"):
        return None
    try:
        name = make_url(uri).database
    except ArgumentError:
        return None
    return Path(name) if name and name != ":memory:" else None


def _broken(uri: str, error: Exception) -> str:
    """Say why a store does not open, and what helps. A process killed in its first seconds leaves half a database."""
    cure = "check MLFLOW_TRACKING_URI; if an older MLflow made this database, run `mlflow db upgrade`"
    if (file := database_file(uri)) is not None:
        cure += f"; if a first command was killed while it made {file.name}, move that file away"
    return f"the tracking store {shown(uri)} does not open ({brief(error)}): {cure}"
