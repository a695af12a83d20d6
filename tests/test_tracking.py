"""The tracking store as several processes of one run meet it."""

import subprocess
import sys


def test_several_processes_may_open_a_new_store_at_once(root, tmp_path):
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    command = [sys.executable, "-c", f"from dpib.tracking import Store; Store({uri!r}).experiment('digits_28', 'd')"]
    processes = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    complaints = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], complaints
