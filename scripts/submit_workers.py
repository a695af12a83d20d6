"""Submit workers of a sweep or a suite through submitit: to SLURM, or to this machine (docs/sweeps.md)."""

import os
import sys
from pathlib import Path

import click
import submitit

ROOT = Path(__file__).resolve().parents[1]


@click.command()
@click.option("--study", required=True, help="The study's name; its database is DPIB_STORAGE.")
@click.option("--count", default=1, help="How many workers.")
@click.option("--cluster", default="slurm", type=click.Choice(["slurm", "local"]))
@click.option("--partition", default=None, help="SLURM's partition.")
@click.option("--cpus", default=4, help="Cores of each.")
@click.option("--gpus", default=0, help="GPUs of each.")
@click.option("--minutes", default=24 * 60, help="Time limit; a worker that is cut off loses nothing.")
@click.option("--logs", default="workers", help="Folder for their logs.")
@click.option("--wait/--no-wait", default=False, help="Wait until all have ended.")
def main(study: str, count: int, cluster: str, logs: str, wait: bool, partition: str | None, **each: int) -> None:
    """Start workers that take trials until none is left."""
    executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
    wanted = {"cpus_per_task": each["cpus"], "gpus_per_node": each["gpus"], "timeout_min": each["minutes"]}
    executor.update_parameters(name="dpib-worker", slurm_partition=partition, **wanted)
    os.chdir(ROOT)
    command = [sys.executable, "-m", "entrypoints.sweep_worker", "--study", study, "--worker"]
    jobs = [executor.submit(submitit.helpers.CommandFunction([*command, str(i + 1)])) for i in range(count)]
    for job in jobs:
        click.echo(f"worker {job.job_id}")
    if wait:
        for job in jobs:
            click.echo(job.result())


if __name__ == "__main__":
    main()
