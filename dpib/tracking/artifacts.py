"""The files of a run: where they lie, and whether they are all there still."""

from collections.abc import Iterator
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from dpib.errors import UserError, is_full
from dpib.tracking.patience import Patient
from dpib.tracking.run import ARTIFACTS


def fetch(client: Patient, run_id: str, artifact: str) -> Path:
    """Return a local path of a run's artifact, downloading it if the store is elsewhere.

    Raises:
        UserError: when the run has lost that artifact, or never had one; when the disk is too full to download it.
    """
    try:
        root = _local_root(client, run_id)
        if root is None:
            return Path(client.download_artifacts(run_id, artifact))
        if not (root / artifact).exists():
            raise FileNotFoundError(root / artifact)
        return root / artifact
    except (MlflowException, OSError) as error:
        if is_full(error):
            raise
        raise UserError(f"{_missing(client, run_id, artifact)}: {str(error).splitlines()[0]}") from None


def _missing(client: Patient, run_id: str, artifact: str) -> str:
    """Say whether a run that has no such artifact had it once: then it was deleted, and the run can be made again."""
    run = client.get_run(run_id)
    stage = run.data.tags.get("dpib.stage", "no")
    if artifact in run.data.tags.get(ARTIFACTS, "").splitlines():
        return (
            f"run {run_id} has lost its artifact {artifact} (put it back, or give the command that made this "
            f"{stage} run again, and then the new run's id)"
        )
    if run.info.status != "FINISHED":
        return f"run {run_id} is {run.info.status.lower()} and has no artifact {artifact} yet (let it finish first)"
    return f"run {run_id}, a {stage} run, has no artifact {artifact}"


def intact(client: Patient, run_id: str) -> bool:
    """Return whether all that a finished run uploaded is there still, as far as the run says what that was."""
    wanted = client.get_run(run_id).data.tags.get(ARTIFACTS, "config.yaml").splitlines()
    root = _local_root(client, run_id)
    if root is not None:
        return all((root / name).is_file() for name in wanted)
    try:
        return set(wanted) <= set(_listed(client, run_id, None))
    except (MlflowException, OSError):
        return False


def _listed(client: Patient, run_id: str, folder: str | None) -> Iterator[str]:
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from _listed(client, run_id, entry.path)
        else:
            yield entry.path


def _local_root(client: Patient, run_id: str) -> Path | None:
    """Return the folder of a run's artifacts, or None where they are elsewhere."""
    root = client.get_run(run_id).info.artifact_uri
    return Path(local_file_uri_to_path(root)) if is_local_uri(root) else None
