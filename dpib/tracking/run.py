"""One tracked run: parameters, final scores, buffered curves and pictures, artifacts."""

import os
import re
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from dpib.errors import UserError
from dpib.lifeline import Process, started
from dpib.tracking import timeless
from dpib.tracking.patience import Patient

_FLUSH_SECONDS = 2.0
_HEARTBEAT_SECONDS = 60.0
_STALE_SECONDS = 15 * 60.0
_LONGEST_TAG = 4000
ARTIFACTS = "dpib.artifacts"


class Run:
    """One tracked run. Curves and images are buffered and sent by a thread, never one call per step."""

    def __init__(self, client: Patient, run_id: str) -> None:
        self._client = client
        self.id = run_id
        self._metrics: list[Metric] = []
        self._images: list[tuple[str, np.ndarray, int]] = []
        self._guard = threading.Lock()
        self._sending = threading.Lock()
        self._stop = threading.Event()
        self._moment: int | None = None
        self.tag(process_tags(Process.of(os.getpid())))
        self._thread = threading.Thread(target=self._send_regularly, daemon=True)
        self._thread.start()

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags now."""
        self._client.log_batch(self.id, tags=[RunTag(k, v) for k, v in tags.items()])

    def params(self, flat: Mapping[str, Any], prefix: str = "cfg.") -> None:
        """Log the resolved configuration under `cfg.`; the same values again are no error."""
        params = [Param(safe(f"{prefix}{key}"), _text(value)) for key, value in flat.items()]
        self._client.log_batch(self.id, params=params)

    def dataset(self, name: str, source: str, context: str) -> None:
        """Log a data set by name and source only: no digest or profile of sensitive images enters the store."""
        entry = MetaDataset(HTTPDatasetSource(source or "https://none"), name=name)._to_mlflow_entity()  # type: ignore[abstract]
        self._client.log_inputs(self.id, [DatasetInput(entry, [InputTag("mlflow.data.context", context)])])

    def final(self, metrics: Mapping[str, float]) -> None:
        """Log scores without a step (the UI draws them as bars)."""
        self._client.log_batch(self.id, metrics=[Metric(safe(k), float(v), self._now(), 0) for k, v in metrics.items()])

    def curve(self, name: str, value: float, step: int) -> None:
        """Buffer one point of a curve."""
        with self._guard:
            self._metrics.append(Metric(safe(name), value, self._now(), step))

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Buffer one picture uint8 [h, w, 3] of a series."""
        with self._guard:
            self._images.append((name, picture, step))

    def artifacts(self, folder: Path) -> None:
        """Upload the content of `folder`, keeping its layout, and note what there is (see `Store.intact`)."""
        self._client.log_artifacts(self.id, str(folder))
        names = "\n".join(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
        if len(names) <= _LONGEST_TAG:
            self.tag({ARTIFACTS: names})

    def text(self, content: str, path: str) -> None:
        """Upload one text artifact."""
        self._client.log_text(self.id, content, path)

    def finish(self, status: str = "FINISHED") -> None:
        """Send what is buffered and end the run with `status` (FINISHED, FAILED or KILLED)."""
        self._stop.set()
        self._thread.join()
        self._send()
        if self._moment is not None:
            self.tag({"dpib.heartbeat": str(self._moment // 1000)})
        timeless.end(self._client, self.id, status)

    def hide_times(self) -> None:
        """Stamp everything from now on with the moment at which the run began: how long it takes is a secret."""
        self._moment = int(self._client.get_run(self.id).info.start_time)
        self.tag({timeless.TAG: "true"})

    def artifact(self, path: Path, folder: str) -> None:
        """Upload one file to `folder` now."""
        self._client.log_artifact(self.id, str(path), folder)

    def _now(self) -> int:
        return int(time.time() * 1000) if self._moment is None else self._moment

    def _send_regularly(self) -> None:
        beat = time.monotonic()
        while not self._stop.wait(_FLUSH_SECONDS):
            try:
                self._send()
                if time.monotonic() - beat > _HEARTBEAT_SECONDS:
                    beat = time.monotonic()
                    self.tag({"dpib.heartbeat": str(int(time.time()))})
            except (MlflowException, OSError, UserError):
                continue  # the server is away: the buffer waits, and `finish` sends it or raises

    def _send(self) -> None:
        """Send what is buffered; what has arrived is forgotten at once, so that a failure repeats none of it."""
        with self._sending:
            while metrics := self._metrics[:1000]:
                self._client.log_batch(self.id, metrics=metrics)
                with self._guard:
                    del self._metrics[: len(metrics)]
            while images := self._images[:1]:
                ((name, picture, step),) = images
                self._client.log_image(self.id, picture, key=name, step=step)
                with self._guard:
                    del self._images[:1]


def safe(name: str) -> str:
    """Return a name of a parameter or a metric with what MLflow refuses in one replaced by `_`."""
    return re.sub(r"[^\w.\-:/ ]", "_", name)[:250]


def _text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def process_tags(process: Process) -> dict[str, str]:
    """Return the tags by which `is_dead` judges whether the process behind a run is gone."""
    return {
        "dpib.host": socket.gethostname(),
        "dpib.process": f"{process.pid}:{process.started}",
        "dpib.heartbeat": str(int(time.time())),
    }


def is_dead(tags: Mapping[str, str]) -> bool:
    """Return whether the process behind a run is gone: its pid on this host, its heartbeat elsewhere."""
    if tags.get("dpib.host") == socket.gethostname():
        pid, _, began = tags.get("dpib.process", "0:").partition(":")
        if Path("/proc").is_dir():
            return began != started(int(pid))
    return time.time() - float(tags.get("dpib.heartbeat", "0")) > _STALE_SECONDS
