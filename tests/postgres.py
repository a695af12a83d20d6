"""A throw-away PostgreSQL server, where Debian's package of it is installed."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
RUNUSER = shutil.which("runuser")


def as_postgres(*command):
    """Run a command as an unprivileged user: PostgreSQL refuses to run as root."""
    prefix = [RUNUSER, "-u", "postgres", "--"] if os.geteuid() == 0 else []
    whole = [*prefix, *map(str, command)]
    return subprocess.run(whole, capture_output=True, text=True, check=True, cwd="/", timeout=90)


@pytest.fixture(scope="session")
def postgres():
    """Return the address of a fresh database, reached through a socket in a private folder."""
    if not BINARIES:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed: pip install 'dpib[server]'")
    if os.geteuid() == 0 and RUNUSER is None:
        pytest.skip("PostgreSQL does not run as root, and runuser is not installed")
    # Sockets have short names, and the unprivileged user must reach the folder.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    try:
        as_postgres(BINARIES[-1] / "initdb", "-D", folder / "data", "-A", "trust", "-U", "postgres", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=50"
        as_postgres(BINARIES[-1] / "pg_ctl", "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start")
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    finally:
        subprocess.run(
            [*([RUNUSER, "-u", "postgres", "--"] if os.geteuid() == 0 else []), str(BINARIES[-1] / "pg_ctl"),
             "-D", str(folder / "data"), "-m", "immediate", "stop"], capture_output=True, cwd="/", check=False,
        )  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
