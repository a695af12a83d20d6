"""One tracking address: finds, begins, resumes and reads runs."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LifecycleStage, ViewType
from mlflow.exceptions import MlflowException

from dpib.errors import UserError
from dpib.tracking import artifacts, timeless
from dpib.tracking import launcher as launchers
from dpib.tracking.opening import database_file, open_client
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


class Store:
    """One tracking address: finds, begins, resumes and reads runs."""

    def __init__(self, uri: str | None = None) -> None:
        """Open the store at a tracking address; none: the one that MLflow is set to.

        Raises:
            UserError: when there is something else there, half of a store, or nobody who answers.
        """
        self.uri = uri or mlflow.get_tracking_uri()
        self._client = open_client(self.uri)

    def experiment(self, dataset: str, title: str) -> str:
        """Return the id of the experiment `dpib-<dataset>`, made with its description and view if new."""
        found = self._experiment(f"dpib-{dataset}", {"mlflow.note.content": _EXPERIMENT_NOTE.format(title=title)})
        self._client.set_experiment_tag(found, f"mlflow.sharedViewState.{VIEW_NAME}", view_state())
        return found

    def _experiment(self, name: str, tags: Mapping[str, str]) -> str:
        """Return the id of an experiment, made if new, and restored if somebody deleted it."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=self._place(name), tags=dict(tags)))
            except MlflowException:  # another process made it in between
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage != LifecycleStage.ACTIVE:
            print(f"experiment {name} had been deleted: it is restored, with its runs", file=sys.stderr)
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _place(self, experiment: str) -> str | None:
        """Return where the artifacts of a new experiment go: beside a local database, else where the server wants."""
        file = database_file(self.uri)
        return None if file is None else str(file.resolve().parent / "mlruns" / experiment)

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
        return self._experiment("dpib-suites", {})

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
        """Start a run; at top level the run that `mlflow run` made for us is taken over."""
        launcher = None if parent else launchers.current(self._client)
        if launcher is not None and launcher.info.experiment_id != "0":
            run_id = launcher.info.run_id
            self._client.set_tag(run_id, "mlflow.runName", name)
        else:
            extra = {"mlflow.parentRunId": parent} if parent else launchers.source(launcher)
            run_id = self._client.create_run(experiment, run_name=name, tags=extra).info.run_id
            launchers.retire(self._client, launcher, run_id)
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
        launchers.retire(self._client, launchers.current(self._client), run_id)
        self._client.update_run(run_id, status="RUNNING")
        return Run(self._client, run_id)

    def hide_times(self, run: Run) -> None:
        """Let neither a run nor the `mlflow run` that it belongs to tell how long it took."""
        run.hide_times()
        timeless.follow_launcher(self._client, self.uri)

    def close(self, run_id: str, status: str = "KILLED") -> None:
        """End a run that nobody will continue, if it has not finished."""
        try:
            if self._client.get_run(run_id).info.status == "FINISHED":
                return
            timeless.end(self._client, run_id, status)
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

    def tagged(self, tag: str, values: Sequence[str]) -> list[tuple[str, bool]]:
        """Return (run, whether it is finished) of all runs whose `tag`, a list with commas, holds one of `values`.

        Runs of every experiment count, and those that somebody deleted: what they spent stays spent.
        """
        found: dict[str, bool] = {}
        everywhere = [e.experiment_id for e in self._client.search_experiments(view_type=ViewType.ALL)]
        for value in values:
            token = None
            while True:
                query = f"tags.`{tag}` LIKE '%{value}%'"
                page = self._client.search_runs(everywhere, query, ViewType.ALL, max_results=1000, page_token=token)
                found.update({run.info.run_id: run.info.status == "FINISHED" for run in page})
                token = page.token
                if not token:
                    break
        return list(found.items())

    def text(self, run_id: str, content: str, path: str) -> None:
        """Upload one text artifact of a run that is at work elsewhere, too."""
        self._client.log_text(run_id, content, path)

    def follow(self, run_id: str) -> str:
        """Return the run's own id, also for the id that `mlflow run` printed for it.

        Raises:
            UserError: when there is no such run here, or it was deleted.
        """
        try:
            run = self._client.get_run(run_id)
            if (real := run.data.tags.get("dpib.run", run_id)) != run_id:
                run = self._client.get_run(real)
        except MlflowException as error:
            raise UserError(f"no run {run_id!r} at {self.uri}: {str(error).splitlines()[0]}") from None
        if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
            raise UserError(f"run {real} was deleted: give another, or `mlflow runs restore --run-id {real}` first")
        return str(real)

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
        return artifacts.fetch(self._client, run_id, artifact)

    def intact(self, run_id: str) -> bool:
        """Return whether all that a finished run uploaded is there still."""
        return artifacts.intact(self._client, run_id)

    def annotate(self, run_id: str, name: str, note: str) -> bool:
        """Give a run that has no note of its own a note and the name that goes with it; say whether it got them."""
        if "mlflow.note.content" in (tags := self.tags(run_id)):
            return tags["mlflow.note.content"] == note
        self._client.set_tag(run_id, "mlflow.note.content", note)
        self._client.set_tag(run_id, "mlflow.runName", name)
        return True

    def sign(self) -> None:
        """Write down which process stands behind the run that `mlflow run` made for this command, if it did."""
        launchers.sign(self._client)

    def reap(self) -> list[str]:
        """Close runs whose process is gone, those of `mlflow run` among them, and return their ids."""
        experiments = list(self._client.search_experiments())
        dead = launchers.put_away(self._client, [e.experiment_id for e in experiments])
        own = [e.experiment_id for e in experiments if e.name.startswith("dpib-")]
        if not own:
            return dead
        for run in self._client.search_runs(own, "attributes.status = 'RUNNING'", max_results=1000):
            if "dpib.stage" in run.data.tags and is_dead(run.data.tags):
                timeless.end(self._client, run.info.run_id, "KILLED")
                dead.append(run.info.run_id)
        return dead
