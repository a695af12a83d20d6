"""Make the tables and figures of a suite, or of all main runs of an experiment, again."""

import json

import click

from dpib.errors import UserError
from dpib.paths import written_path
from entrypoints import cli


@click.command()
@click.option("--suite_run", default="none", help="The suite's run.")
@click.option("--experiment", default="none", help="An experiment's name, such as dpib-mnist_28.")
@click.option("--out", default="report", help="The folder to write.")
@cli.guarded
def main(suite_run: str, experiment: str, out: str) -> None:
    """Write runs.csv, summary.csv, summary.md and figures from the tracked runs."""
    from analysis import report

    suite, name, store = cli.given(suite_run), cli.given(experiment), cli.open_store()
    if (suite is None) == (name is None):
        raise UserError("give either -P suite_run=<run id> or -P experiment=<name>")
    folder = written_path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if suite is not None:
        cells = json.loads(store.fetch(store.follow(suite), "cells.json").read_text())
        records = store.records([cell["run"] for cell in cells if cell["run"]])
    else:
        records = store.records(experiment=name)
    text = report.write(records, folder)
    click.echo(f"{text}\n{len(records)} runs, written to {out}")


if __name__ == "__main__":
    main()
