"""Tracked runs: the only file that imports mlflow."""

import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import numpy as np
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, LifecycleStage, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from dpib.errors import UserError
from dpib.runs_view import VIEW_NAME, view_state

_FLUSH_SECONDS = 2.0
_HEARTBEAT_SECONDS = 60.0
_STALE_SECONDS = 15 * 60.0


class Store:
    """One tracking address: finds, begins, resumes and reads runs."""

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or mlflow.get_tracking_uri()
        self._client = mlflow.MlflowClient(self.uri)

    def experiment(self, dataset: str, title: str) -> str:
        """Return the id of the experiment `dpib-<dataset>`, made with its description and view if new."""
        name = f"dpib-{dataset}"
        found = self._client.get_experiment_by_name(name)
        if found is None:
            tags = {"mlflow.note.content": _EXPERIMENT_NOTE.format(title=title)}
            try:
                found_id = self._client.create_experiment(name, tags=tags)
            except MlflowException:  # another process made it in between
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
                found_id = found.experiment_id
        else:
            found_id = found.experiment_id
        self._client.set_experiment_tag(found_id, f"mlflow.sharedViewState.{VIEW_NAME}", view_state())
        return str(found_id)

    def newest_experiment(self) -> str:
        """Return the id of the dpib experiment with the newest run.

        Raises:
            UserError: when there is none yet.
        """
        ids = [e.experiment_id for e in self._client.search_experiments(filter_string="name LIKE 'dpib-%'")]
        runs = self._client.search_runs(ids, max_results=1, order_by=["attributes.start_time DESC"]) if ids else []
        if not runs:
            raise UserError(f"no runs at {self.uri} yet: make run makes one")
        return str(runs[0].info.experiment_id)

    def begin(self, experiment: str, name: str, tags: Mapping[str, str], parent: str | None) -> "Run":
        """Start a run; at top level the run that `mlflow run` made for us is taken over (see `_launcher`)."""
        launcher = None if parent else self._launcher()
        if launcher is not None and launcher.info.experiment_id != "0":
            run_id = launcher.info.run_id
            self._client.set_tag(run_id, "mlflow.runName", name)
        else:
            extra = {"mlflow.parentRunId": parent} if parent else self._source(launcher)
            run_id = self._client.create_run(experiment, run_name=name, tags=extra).info.run_id
            self._retire(launcher, run_id)
        run = Run(self._client, run_id)
        run.tag(tags)
        return run

    def resume(self, run_id: str) -> "Run | None":
        """Go on with an unfinished run, or return None if this store does not have it."""
        try:
            found = self._client.get_run(run_id)
        except MlflowException:
            return None
        if found.info.lifecycle_stage != LifecycleStage.ACTIVE or found.info.status == "FINISHED":
            return None
        self._retire(self._launcher(), run_id)
        self._client.update_run(run_id, status="RUNNING")
        return Run(self._client, run_id)

    def close(self, run_id: str, status: str = "KILLED") -> None:
        """End a run that nobody will continue."""
        try:
            self._client.set_terminated(run_id, status)
        except MlflowException:
            return

    def find(self, experiment: str, stage: str, fingerprint: str) -> str | None:
        """Return the newest finished run of this stage and fingerprint."""
        runs = self._client.search_runs(
            [experiment],
            f"tags.`dpib.fingerprint` = '{fingerprint}' and tags.`dpib.stage` = '{stage}' "
            "and attributes.status = 'FINISHED'",
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
        return runs[0].info.run_id if runs else None

    def follow(self, run_id: str) -> str:
        """Return the run's own id, also for the id that `mlflow run` printed for it.

        Raises:
            UserError: when there is no such run here.
        """
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            raise UserError(f"no run {run_id!r} at {self.uri}: {str(error).splitlines()[0]}") from None
        return str(run.data.tags.get("dpib.run", run_id))

    def metrics(self, run_id: str) -> dict[str, float]:
        """Return the latest value of every metric of a run."""
        return dict(self._client.get_run(run_id).data.metrics)

    def tags(self, run_id: str) -> dict[str, str]:
        """Return the tags of a run."""
        return dict(self._client.get_run(run_id).data.tags)

    def fetch(self, run_id: str, artifact: str) -> Path:
        """Return a local path of a run's artifact, downloading it if the store is elsewhere.

        Raises:
            UserError: when the run has no such artifact.
        """
        try:
            root = self._client.get_run(run_id).info.artifact_uri
            if is_local_uri(root):
                path = Path(local_file_uri_to_path(root)) / artifact
                if not path.exists():
                    raise FileNotFoundError(path)
                return path
            return Path(self._client.download_artifacts(run_id, artifact))
        except (MlflowException, OSError) as error:
            raise UserError(f"run {run_id} has no artifact {artifact}: {str(error).splitlines()[0]}") from None

    def reap(self) -> list[str]:
        """Close runs whose process is gone, and return their ids; delete launchers that have ended.

        MLflow cannot end a run that was deleted, so a launcher stays until the next command comes by.
        """
        for launcher in self._client.search_runs(["0"], "tags.`dpib.run` != ''", max_results=1000):
            if launcher.info.status != "RUNNING":
                self._client.delete_run(launcher.info.run_id)
        experiments = [e.experiment_id for e in self._client.search_experiments(filter_string="name LIKE 'dpib-%'")]
        if not experiments:
            return []
        dead = []
        for run in self._client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=1000):
            if "dpib.stage" in run.data.tags and _is_dead(run.data.tags):
                self._client.set_terminated(run.info.run_id, "KILLED")
                dead.append(run.info.run_id)
        return dead

    def _launcher(self) -> Any | None:
        """Return the run that `mlflow run` made for this process, unless it was dealt with already."""
        run_id = os.environ.get("MLFLOW_RUN_ID")
        if run_id is None:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException:
            return None
        return run if run.info.lifecycle_stage == LifecycleStage.ACTIVE and "dpib.stage" not in run.data.tags else None

    def _retire(self, launcher: Any | None, run_id: str) -> None:
        """Mark the launcher's run as a mere pointer to the real one; `mlflow run` itself will end it."""
        if launcher is None or launcher.info.run_id == run_id:
            return
        self._client.set_tag(launcher.info.run_id, "dpib.run", run_id)
        self._client.set_tag(launcher.info.run_id, "mlflow.runName", f"launcher of {run_id}")

    @staticmethod
    def _source(launcher: Any | None) -> dict[str, str]:
        """Carry over where the launcher says the code came from."""
        if launcher is None:
            return {}
        kept = ("mlflow.source.", "mlflow.project.", "mlflow.user")
        return {k: v for k, v in launcher.data.tags.items() if k.startswith(kept)}


class Run:
    """One tracked run. Curves and images are buffered and sent by a thread, never one call per step."""

    def __init__(self, client: mlflow.MlflowClient, run_id: str) -> None:
        self._client = client
        self.id = run_id
        self._metrics: list[Metric] = []
        self._images: list[tuple[str, np.ndarray, int]] = []
        self._guard = threading.Lock()
        self._sending = threading.Lock()
        self._stop = threading.Event()
        self.tag(_process_tags())
        self._thread = threading.Thread(target=self._send_regularly, daemon=True)
        self._thread.start()

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags now."""
        self._client.log_batch(self.id, tags=[RunTag(k, v) for k, v in tags.items()])

    def params(self, flat: Mapping[str, Any]) -> None:
        """Log the resolved configuration under `cfg.`; the same values again are no error."""
        params = [Param(f"cfg.{key}", _text(value)) for key, value in flat.items()]
        self._client.log_batch(self.id, params=params)

    def dataset(self, name: str, source: str, context: str) -> None:
        """Log a data set by name and source only: no digest or profile of sensitive images enters the store."""
        entry = MetaDataset(HTTPDatasetSource(source or "https://none"), name=name)._to_mlflow_entity()  # type: ignore[abstract]
        self._client.log_inputs(self.id, [DatasetInput(entry, [InputTag("mlflow.data.context", context)])])

    def final(self, metrics: Mapping[str, float]) -> None:
        """Log scores without a step (the UI draws them as bars)."""
        now = int(time.time() * 1000)
        self._client.log_batch(self.id, metrics=[Metric(k, float(v), now, 0) for k, v in metrics.items()])

    def curve(self, name: str, value: float, step: int) -> None:
        """Buffer one point of a curve."""
        with self._guard:
            self._metrics.append(Metric(name, value, int(time.time() * 1000), step))

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Buffer one picture uint8 [h, w, 3] of a series."""
        with self._guard:
            self._images.append((name, picture, step))

    def artifacts(self, folder: Path) -> None:
        """Upload the content of `folder`, keeping its layout."""
        self._client.log_artifacts(self.id, str(folder))

    def text(self, content: str, path: str) -> None:
        """Upload one text artifact."""
        self._client.log_text(self.id, content, path)

    def finish(self, status: str = "FINISHED") -> None:
        """Send what is buffered and end the run with `status` (FINISHED, FAILED or KILLED)."""
        self._stop.set()
        self._thread.join()
        self._send()
        self._client.set_terminated(self.id, status)

    def _send_regularly(self) -> None:
        beat = time.monotonic()
        while not self._stop.wait(_FLUSH_SECONDS):
            try:
                self._send()
                if time.monotonic() - beat > _HEARTBEAT_SECONDS:
                    beat = time.monotonic()
                    self.tag({"dpib.heartbeat": str(int(time.time()))})
            except (MlflowException, OSError):
                continue  # the server is away: the buffer waits, and `finish` sends it or raises

    def _send(self) -> None:
        with self._sending:
            with self._guard:
                metrics, images = self._metrics[:], self._images[:]
            for start in range(0, len(metrics), 1000):
                self._client.log_batch(self.id, metrics=metrics[start : start + 1000])
            for name, picture, step in images:
                self._client.log_image(self.id, picture, key=name, step=step)
            with self._guard:
                del self._metrics[: len(metrics)], self._images[: len(images)]


def _text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _process_tags() -> dict[str, str]:
    return {
        "dpib.host": socket.gethostname(),
        "dpib.process": f"{os.getpid()}:{_started(os.getpid())}",
        "dpib.heartbeat": str(int(time.time())),
    }


def _started(pid: int) -> str:
    """Return when a process started, in kernel ticks, so that a reused pid is not taken for the old process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_dead(tags: Mapping[str, str]) -> bool:
    if tags.get("dpib.host") == socket.gethostname():
        pid, _, started = tags.get("dpib.process", "0:").partition(":")
        if Path("/proc").is_dir():
            return started != _started(int(pid))
    return time.time() - float(tags.get("dpib.heartbeat", "0")) > _STALE_SECONDS


_EXPERIMENT_NOTE = """Differentially private synthetic images of **{title}**. Every `main` run trains a \
synthesizer within a privacy budget, draws a labelled set and measures it; its children hold the curves.

`utility/accuracy_best` is the test accuracy of the classifier and epoch that a differentially private \
selection chose; `privacy/epsilon` is everything spent, that selection included. What is not covered by \
epsilon stands in each run's `privacy/statement.md`."""
