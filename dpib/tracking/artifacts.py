"""The files of a run: where they lie, and whether they are all there still."""

from collections.abc import Iterator
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from dpib.errors import UserError
from dpib.tracking.patience import Patient
from dpib.tracking.run import ARTIFACTS


def fetch(client: Patient, run_id: str, artifact: str) -> Path:
    """Return a local path of a run's artifact, downloading it if the store is elsewhere.

    Raises:
        UserError: when the run has no such artifact.
    """
    try:
        root = _local_root(client, run_id)
        if root is None:
            return Path(client.download_artifacts(run_id, artifact))
        if not (root / artifact).exists():
            raise FileNotFoundError(root / artifact)
        return root / artifact
    except (MlflowException, OSError) as error:
        raise UserError(f"run {run_id} has no artifact {artifact}: {str(error).splitlines()[0]}") from None


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
