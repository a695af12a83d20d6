"""Run a matrix of methods, data sets, epsilons and seeds, and report on it."""

import tempfile
from pathlib import Path

import click

from dpib.atomic import write_text
from entrypoints import cli
from entrypoints.launch import cores, fits


@cli.entry
@click.option("--config", required=True, help="The suite: a YAML file, or the name of one in configs/suites.")
@click.option("--storage", default="none", help="Database of the study, for workers elsewhere; else DPIB_STORAGE.")
@click.option("--workers", default=1, type=click.IntRange(min=1), help="Processes on this machine.")
def main(config: str, storage: str, workers: int, keys: tuple[str, ...]) -> None:
    """Run a suite; cells that are finished already are reused, cells that fail are listed and left out."""
    from analysis import report
    from dpib.runner import closing
    from dpib.sweeps.suite import launch, listed, read_suite, resolve, study_name
    from entrypoints.storage import study_storage

    suite = read_suite(config, cli.overrides(keys))
    cells = resolve(suite)
    fits("workers", workers, cores(), all(cell.config.oversubscribe for cell in cells))
    count = len(cells)
    store, url = cli.open_store(), study_storage(storage)
    run = store.begin(store.suites(), f"suite-{suite.name}", {"dpib.stage": "suite"}, None)
    with closing(run, lambda: None), tempfile.TemporaryDirectory() as folder:
        more = f"mlflow run . --env-manager local -e sweep_worker -P study={study_name(suite, run.id)} -P worker=1"
        click.echo(f"suite {suite.name}: {count} cells, run {run.id}; workers may join: {more}", err=True)
        _, progress = launch(suite, store, url, run.id, workers)
        write_text(Path(folder) / "cells.json", listed(suite, progress))
        runs = [trial.user_attrs["run"] for _, trial in sorted(progress.done.items())]
        text = report.write(store.records(runs), Path(folder))
        run.artifacts(Path(folder))
        run.final({"suite/cells": count, "suite/done": len(progress.done), "suite/failed": len(progress.failed)})
        run.tag({"mlflow.note.content": text})
    click.echo(f"\n{text}\nsuite run {run.id}: {len(progress.done)} of {count} cells done")
    for slot, trial in sorted(progress.failed.items()):
        click.echo(f"  cell {slot} failed: {trial.user_attrs.get('error', 'its worker died too often')}")


if __name__ == "__main__":
    main()
