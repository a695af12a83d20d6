"""Work on a sweep or a suite that was started elsewhere; any number of workers, on any machines."""

import os

import click

from entrypoints import cli


@click.command()
@click.option("--study", required=True, help="The study's name, which the launcher prints.")
@click.option("--storage", default="none", help="Database of the study; else DPIB_STORAGE.")
@click.option("--worker", default=0, help="A number of its own for every worker.")
@cli.guarded
def main(study: str, storage: str, worker: int) -> None:
    """Take one trial after the other until none is left."""
    from dpib.sweeps.job import Job
    from dpib.sweeps.study import Study
    from dpib.sweeps.suite import suite_worker
    from dpib.sweeps.worker import sweep_worker
    from dpib.tracking import Store
    from entrypoints.storage import study_storage

    found = Study.join(study_storage(storage), study)
    memo = found.memo
    store = Store() if os.environ.get("MLFLOW_TRACKING_URI") else Store(memo["tracking"])
    if memo["work"] == "suite":
        progress = suite_worker(found, store, worker)
    else:
        progress = sweep_worker(found, Job.recall(memo, found.url, study, store), worker)
    click.echo(f"worker {worker}: {len(progress.done)} of {progress.total} done, {len(progress.failed)} failed")


if __name__ == "__main__":
    main()
