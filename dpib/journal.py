"""What this machine knows of the sensitive images and never tells: a database in DPIB_HOME.

Which images every run and every training saw, by their digests; what was spent on held-out images; and how many
images a public set shares with a sensitive one.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TABLES = """
create table if not exists seen (name text not null, digest text not null, primary key (name, digest));
create table if not exists spent (
    key text not null, data text not null, event text not null, body text not null, primary key (key, data, event)
);
create table if not exists shared (public text, digest text, count integer not null, primary key (public, digest));
"""
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Identity:
    """Which images these are: the digest of them in their order, and whether their publisher made them known.

    The digest of anybody's own images must not leave the machine.
    """

    digest: str
    published: bool

    @property
    def told(self) -> str | None:
        """The digest where everybody may know it."""
        return self.digest if self.published else None


class Journal:
    """The journal of one home; any number of processes may write at once."""

    def __init__(self, home: Path) -> None:
        self._path = home / "journal.db"

    def saw(self, name: str, digest: str) -> None:
        """Remember that the run or training `name` saw the images with this digest, beside what it saw before."""
        with self._open() as connection:
            connection.execute("insert or ignore into seen values (?, ?)", (name, digest))

    def seen_by(self, name: str) -> set[str]:
        """Return the digests of what a run or training saw; none where this machine does not know it."""
        with self._open() as connection:
            rows = connection.execute("select digest from seen where name = ?", (name,)).fetchall()
        return {str(digest) for (digest,) in rows}

    def spend(self, keys: Iterable[str], data: Iterable[str], events: Iterable[tuple[str, str]]) -> None:
        """Remember `events` (id, JSON) on held-out images, under what they judged and on which data.

        Args:
            keys: names of the training and digests of the synthetic set.
            data: name and digest of the data set.
            events: what was charged.
        """
        rows = [(key, each, *event) for key in keys for each in data for event in events]
        with self._open() as connection:
            connection.executemany("insert or ignore into spent values (?, ?, ?, ?)", rows)

    def spent(self, keys: Iterable[str], data: Iterable[str]) -> list[str]:
        """Return the JSON of every event that was spent under one of `keys` on one of `data`, each once."""
        found: dict[str, str] = {}
        query = "select event, body from spent where key = ? and data = ? order by rowid"
        with self._open() as connection:
            for key in keys:
                for each in data:
                    found.update(connection.execute(query, (key, each)).fetchall())
        return list(found.values())

    def share(self, public: str, digest: str, count: int) -> None:
        """Remember how many images two sets share."""
        with self._open() as connection:
            connection.execute("insert or replace into shared values (?, ?, ?)", (public, digest, count))

    def shared(self, public: str, digest: str) -> int | None:
        """Return how many images two sets share, or None if they were not compared here."""
        query = "select count from shared where public = ? and digest = ?"
        with self._open() as connection:
            row = connection.execute(query, (public, digest)).fetchone()
        return None if row is None else int(row[0])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self._path, timeout=_PATIENCE_SECONDS)
        try:
            connection.executescript(_TABLES)
            with connection:
                yield connection
        finally:
            connection.close()
