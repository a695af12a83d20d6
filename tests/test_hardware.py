"""What dpib asks of the machine."""

import subprocess
import sys

import pytest
import torch

from dpib.hardware import free_memory


def test_the_free_memory_of_this_machine_is_known():
    free = free_memory(torch.device("cpu"))
    assert free is not None
    assert free > 2**20


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_told_otherwise(monkeypatch, root, given, found):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    # It is too late once torch is there.
    code = "import dpib, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    assert told.stdout.split() == [found, "False"]
