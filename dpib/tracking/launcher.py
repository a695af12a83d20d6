"""The run that `mlflow run` makes for a command: a pointer to the real one, put away when both have ended."""

import os
import socket
from typing import Any

from mlflow.entities import LifecycleStage, RunTag
from mlflow.exceptions import MlflowException

from dpib.lifeline import Process, mlflow_run
from dpib.tracking import timeless
from dpib.tracking.patience import Patient
from dpib.tracking.run import is_dead, process_tags


def current(client: Patient) -> Any | None:
    """Return the run that `mlflow run` made for this process, unless it was dealt with already."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    return run if run.info.lifecycle_stage == LifecycleStage.ACTIVE and "dpib.stage" not in run.data.tags else None


def sign(client: Patient) -> None:
    """Write down which process will end the launcher's run, so that it can be closed when that process is gone."""
    run = current(client)
    if run is not None:
        tags = {"dpib.launcher": "true", **process_tags(mlflow_run() or Process.of(os.getpid()))}
        client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def retire(client: Patient, launcher: Any | None, run_id: str) -> None:
    """Mark the launcher's run as a mere pointer to the real one; `mlflow run` itself will end it."""
    if launcher is None or launcher.info.run_id == run_id:
        return
    sign(client)
    client.set_tag(launcher.info.run_id, "dpib.run", run_id)
    client.set_tag(launcher.info.run_id, "mlflow.runName", f"launcher of {run_id}")


def source(launcher: Any | None) -> dict[str, str]:
    """Return where the launcher says the code came from, as tags for the real run."""
    if launcher is None:
        return {}
    kept = ("mlflow.source.", "mlflow.project.", "mlflow.user")
    return {k: v for k, v in launcher.data.tags.items() if k.startswith(kept)}


def put_away(client: Patient, experiments: list[str]) -> list[str]:
    """Delete launchers that have ended; close those whose process is gone, and return their ids.

    MLflow cannot end a run that was deleted, so a launcher stays until the next command comes by.
    """
    closed = []
    for run in client.search_runs(experiments, "tags.`dpib.launcher` = 'true'", max_results=1000):
        tags, run_id = run.data.tags, run.info.run_id
        if "dpib.stage" in tags:  # it became the real run
            continue
        if run.info.status != "RUNNING":
            if "dpib.run" in tags:
                client.delete_run(run_id)
        elif is_dead(tags) and not (_elsewhere(tags) and _at_work(client, tags)):
            timeless.end(client, run_id, "KILLED")
            closed.append(run_id)
    return closed


def _elsewhere(tags: dict[str, str]) -> bool:
    return tags.get("dpib.host") != socket.gethostname()


def _at_work(client: Patient, tags: dict[str, str]) -> bool:
    """Return whether the run that a launcher of another machine points to goes on: the launcher has no heartbeat."""
    return "dpib.run" in tags and client.get_run(tags["dpib.run"]).info.status == "RUNNING"
