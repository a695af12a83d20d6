"""A throw-away PostgreSQL server, where Debian's package of it is installed."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
RUNUSER = shutil.which("runuser")


def as_postgres(*command):
    """Run a command as an unprivileged user: PostgreSQL refuses to run as root."""
    prefix = [RUNUSER, "-u", "postgres", "--"] if os.geteuid() == 0 else []
    whole = [*prefix, *map(str, command)]
    return subprocess.run(whole, capture_output=True, text=True, check=True, cwd="/")


def missing():
    """Return why there can be no server on this machine, or None."""
    if not BINARIES:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed"
    if os.geteuid() == 0 and RUNUSER is None:
        return "PostgreSQL does not run as root, and runuser is not installed"
    return None


@contextmanager
def server():
    """Yield the address of a fresh database, reached through a socket in a folder of its own."""
    # Sockets have short names, and the unprivileged user must reach the folder.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    control = [BINARIES[-1] / "pg_ctl", "-D", folder / "data"]
    try:
        as_postgres(BINARIES[-1] / "initdb", "-D", folder / "data", "-A", "trust", "-U", "postgres", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=50"
        as_postgres(*control, "-o", options, "-l", folder / "log", "-w", "start")
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        as_postgres(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres():
    """Return the address of a fresh database; skip where there can be none, saying why."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with server() as url:
        yield url
