"""The database of studies, as commands are given it."""

from sqlalchemy.exc import ArgumentError

from dpib import database
from dpib.errors import UserError
from dpib.sweeps.study import storage_url
from entrypoints import cli


def study_storage(storage: str) -> str:
    """Return the database of studies (see `storage_url`), looked into.

    Raises:
        UserError: when there is none that can be used.
    """
    try:
        url = storage_url(cli.given(storage))
    except ArgumentError:
        raise UserError("-P storage= is no address of a database, such as sqlite:////tmp/studies.db") from None
    database.check(url, "the database of studies", "check -P storage=, or DPIB_STORAGE")
    return url
