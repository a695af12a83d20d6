"""Runs that must not tell how long they took: each ends, in the store, at the moment at which it began.

`mlflow run` stamps its own run when its child is gone, so a process of its own waits for that and takes it back.
"""

import os
import subprocess
import sys
import time

import mlflow

from dpib.lifeline import Process, mlflow_run
from dpib.tracking.patience import Patient

TAG = "dpib.timeless"
_POLL_SECONDS = 0.2


def end(client: Patient, run_id: str, status: str) -> None:
    """End a run: now, or where it is timeless at the moment at which it began."""
    run = client.get_run(run_id)
    client.set_terminated(run_id, status, end_time=run.info.start_time if TAG in run.data.tags else None)


def follow_launcher(client: Patient, uri: str) -> None:
    """Make the run that `mlflow run` keeps for this process timeless as well."""
    launcher, run_id = mlflow_run(), os.environ.get("MLFLOW_RUN_ID")
    if launcher is None or run_id is None:
        return
    client.set_tag(run_id, TAG, "true")
    command = [sys.executable, "-m", __name__, uri, run_id, str(launcher.pid), launcher.started]
    subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main(uri: str, run_id: str, pid: str, started: str) -> None:
    """Wait until `mlflow run` is gone, and take back when that was."""
    launcher, client = Process(int(pid), started), Patient(mlflow.MlflowClient(uri), uri)
    while launcher.lives():
        time.sleep(_POLL_SECONDS)
    status = client.get_run(run_id).info.status
    end(client, run_id, "KILLED" if status == "RUNNING" else status)


if __name__ == "__main__":
    main(*sys.argv[1:])
