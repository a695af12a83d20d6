"""A local store whose folder was renamed or copied elsewhere: its artifacts are looked for beside it."""

import sys
from pathlib import Path

from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection


def mend(database: Path) -> None:
    """Make a database point to the artifacts that moved with it; MLflow keeps their places as absolute paths.

    Only what is not where the database says, and is found in the same place relative to it, is changed.
    """
    if not database.is_file():
        return
    engine = create_engine(f"sqlite:///{database}", connect_args={"timeout": 60})
    with engine.begin() as connection:
        tables = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
        if {"experiments", "runs"} <= set(tables):
            shift = _shift(connection, database.resolve().parent)
            if shift is not None:
                _apply(connection, *shift)
    engine.dispose()


def _shift(connection: Connection, folder: Path) -> tuple[str, str] | None:
    """Return the folder that was, and the one that is, if an experiment's artifacts show that the store moved."""
    places = connection.execute(text("SELECT experiment_id, artifact_location FROM experiments")).all()
    for experiment, place in places:
        if not place or not is_local_uri(place) or (old := Path(local_file_uri_to_path(place))).exists():
            continue
        query = text("SELECT run_uuid FROM runs WHERE experiment_id = :experiment")
        runs = connection.execute(query, {"experiment": experiment}).scalars().all()
        for length in range(len(old.parts) - 1, 1, -1):  # two names at least: mlruns/<experiment>
            found = folder.joinpath(*old.parts[-length:])
            if any((found / run).is_dir() for run in runs):
                return str(Path(*old.parts[:-length])), str(folder)
    return None


def _apply(connection: Connection, old: str, new: str) -> None:
    print(f"this store was at {old} and its artifacts moved with it: they are looked for in {new}", file=sys.stderr)
    for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
        for scheme in ("", "file://"):
            before, after = f"{scheme}{old}/", f"{scheme}{new}/"
            connection.execute(
                text(
                    f"UPDATE {table} SET {column} = :after || substr({column}, :length) "
                    f"WHERE substr({column}, 1, :length - 1) = :before"
                ),
                {"before": before, "after": after, "length": len(before) + 1},
            )
