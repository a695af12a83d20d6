"""The tracking store as several processes of one run meet it."""

import shutil
import sqlite3
import subprocess
import sys

import pytest

from dpib.errors import UserError
from dpib.tracking import Store


def test_several_processes_may_open_a_new_store_at_once(root, tmp_path):
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    command = [sys.executable, "-c", f"from dpib.tracking import Store; Store({uri!r}).experiment('digits_28', 'd')"]
    processes = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    complaints = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], complaints


def test_a_database_that_a_killed_process_left_half_made_is_named_with_its_cure(tmp_path):
    whole, half = tmp_path / "whole.db", tmp_path / "half.db"
    Store(f"sqlite:///{whole}")
    shutil.copy(whole, half)
    with sqlite3.connect(half) as database:  # as after a kill amid MLflow's migrations
        database.execute("DELETE FROM alembic_version")
        database.execute("DROP TABLE registered_model_aliases")
    database.close()
    with pytest.raises(UserError, match=f"does not open .*OperationalError.*: .*delete {half}"):
        Store(f"sqlite:///{half}")


def test_a_file_that_is_no_database_is_named_with_its_cure(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("no database at all" * 100)
    with pytest.raises(UserError, match=r"does not open .*not a database.*check MLFLOW_TRACKING_URI"):
        Store(f"sqlite:///{path}")
