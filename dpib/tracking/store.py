"""One tracking address: finds, begins, resumes and reads runs."""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from dpib.errors import UserError
from dpib.tracking.run import Run, is_dead
from dpib.tracking.view import VIEW_NAME, view_state

_EXPERIMENT_NOTE = """Differentially private synthetic images of **{title}**. Every `main` run trains a \
synthesizer within a privacy budget, draws a labelled set and measures it; its children hold the curves.

`utility/accuracy_best` is the test accuracy of the classifier and epoch that a differentially private \
selection chose; `privacy/epsilon` is everything spent, that selection included. What is not covered by \
epsilon stands in each run's `privacy/statement.md`."""


@dataclass(frozen=True)
class Record:
    """A run as the store keeps it, for whoever analyses runs."""

    run_id: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]


def _record(run: Any) -> Record:
    data = run.data
    return Record(run.info.run_id, run.info.run_name, dict(data.tags), dict(data.params), dict(data.metrics))


def _database_file(uri: str) -> Path | None:
    return Path(make_url(uri).database or "") if uri.startswith("sqlite:") else None


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Keep other processes from a database file while its tables are made: MLflow lets two of them trip."""
    file = _database_file(uri)
    if file is None or not file.parent.is_dir():
        yield
        return
    handle = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _broken(uri: str, error: Exception) -> str:
    """Say why a store does not open, and what helps. A process killed in its first seconds leaves half a database."""
    cure = "check MLFLOW_TRACKING_URI; if an older MLflow made this database, run `mlflow db upgrade`"
    if (file := _database_file(uri)) is not None:
        cure += f"; if it is new and holds no runs yet, delete {file}"
    return f"the tracking store does not open ({str(error).splitlines()[0]}): {cure}"


class Store:
    """One tracking address: finds, begins, resumes and reads runs."""

    def __init__(self, uri: str | None = None) -> None:
        """Open the store at a tracking address; none: the one that MLflow is set to.

        Raises:
            UserError: when there is something else there, or half of a store.
        """
        self.uri = uri or mlflow.get_tracking_uri()
        try:
            with _one_at_a_time(self.uri):
                self._client = mlflow.MlflowClient(self.uri)
        except Exception as error:
            from alembic.util.exc import CommandError  # a third of a second, when something is wrong only

            if isinstance(error, SQLAlchemyError | CommandError | MlflowException):
                raise UserError(_broken(self.uri, error)) from None
            raise

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

    def experiment_of(self, run_id: str) -> str:
        """Return the id of the experiment that a run belongs to."""
        return str(self._client.get_run(run_id).info.experiment_id)

    def records(self, runs: Sequence[str] = (), experiment: str | None = None) -> list[Record]:
        """Return runs by their ids, or all `main` runs of an experiment (by name), the oldest first.

        Raises:
            UserError: when there is no such run or experiment.
        """
        if experiment is None:
            try:
                return [_record(self._client.get_run(run)) for run in runs]
            except MlflowException as error:
                raise UserError(f"a run is missing at {self.uri}: {str(error).splitlines()[0]}") from None
        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            raise UserError(f"no experiment {experiment!r} at {self.uri}")
        records: list[Record] = []
        token = None
        while True:
            page = self._client.search_runs(
                [found.experiment_id],
                "tags.`dpib.stage` = 'main' and attributes.status = 'FINISHED'",
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            records += [_record(run) for run in page]
            token = page.token
            if not token:
                return records

    def suites(self) -> str:
        """Return the id of the experiment of suites, made if new."""
        found = self._client.get_experiment_by_name("dpib-suites")
        return str(found.experiment_id if found else self._client.create_experiment("dpib-suites"))

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

    def begin(self, experiment: str, name: str, tags: Mapping[str, str], parent: str | None) -> Run:
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

    def resume(self, run_id: str) -> Run | None:
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

    def find(self, experiment: str | None, stage: str, fingerprint: str) -> list[str]:
        """Return the finished runs of this stage and fingerprint, the newest first; no experiment: of any data set."""
        found = self._client.search_experiments(filter_string="name LIKE 'dpib-%'") if experiment is None else []
        runs = self._client.search_runs(
            [experiment] if experiment is not None else [e.experiment_id for e in found],
            f"tags.`dpib.fingerprint` = '{fingerprint}' and tags.`dpib.stage` = '{stage}' "
            "and attributes.status = 'FINISHED'",
            max_results=100,
            order_by=["attributes.start_time DESC"],
        )
        return [run.info.run_id for run in runs]

    def tagged(self, experiment: str, tag: str, values: Sequence[str]) -> list[tuple[str, bool]]:
        """Return (run, whether it is finished) of all runs whose `tag`, a list with commas, holds one of `values`."""
        found: dict[str, bool] = {}
        for value in values:
            token = None
            while True:
                query = f"tags.`{tag}` LIKE '%{value}%'"
                page = self._client.search_runs([experiment], query, max_results=1000, page_token=token)
                found.update({run.info.run_id: run.info.status == "FINISHED" for run in page})
                token = page.token
                if not token:
                    break
        return list(found.items())

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
            if "dpib.stage" in run.data.tags and is_dead(run.data.tags):
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
