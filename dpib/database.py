"""Whether a database can be used: asked once at the start, so that the answer is one line and comes soon."""

import time

from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from dpib.errors import UserError

_CONNECT_SECONDS = 10
_LOCKED_SECONDS = 120.0


def check(url: str, what: str, cure: str) -> None:
    """Look into the database at an SQLAlchemy address; a locked one is waited for, a new file is fine.

    Args:
        url: the address.
        what: names its purpose in errors, such as "the tracking store".
        cure: what to check then.

    Raises:
        UserError: when the address is none, or nothing at it can be used as a database.
    """
    try:
        known = make_url(url)
    except ArgumentError:
        raise UserError(f"{what} {url!r} is no address of a database: {cure}") from None
    options = {"connect_timeout": _CONNECT_SECONDS} if known.drivername.startswith("postgresql") else {}
    end = time.monotonic() + _LOCKED_SECONDS
    try:
        engine = create_engine(known, connect_args=options)
        while not _looked_into(engine, end):
            time.sleep(0.2)
        engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{what} {known.render_as_string()} does not open ({reason}): {cure}") from None


def _looked_into(engine: Engine, end: float) -> bool:
    """Return False while the database is locked, until `end`."""
    try:
        inspect(engine).get_table_names()
    except OperationalError as error:
        if "is locked" not in str(error) or time.monotonic() > end:
            raise
        return False
    return True
