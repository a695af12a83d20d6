"""Waiting for other processes by what they do, never by the clock: a slow machine fails no test."""

import os
import time
from pathlib import Path

from dpib.lifeline import Process

_TICKS = os.sysconf("SC_CLK_TCK")


def seconds_worked(pid):
    """Return the processor time of a process, or None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else (int(fields[11]) + int(fields[12])) / _TICKS


def ends(process: Process, allowance=8.0):
    """Return whether a process ends before it has worked `allowance` seconds more."""
    before = seconds_worked(process.pid)
    while process.lives():
        now = seconds_worked(process.pid)
        if now is not None and before is not None and now > before + allowance:
            return False
        time.sleep(0.05)
    return True


def wait_for(condition, process):
    """Return what `condition` returns as soon as that is true; fail when the process ends before."""
    while True:
        over = process.poll() is not None
        if found := condition():
            return found
        assert not over, f"it ended with {process.returncode} first"
        time.sleep(0.05)
