"""Suites: the matrix, reuse, going on after failures, and the report at the end."""

import json
import re
from datetime import datetime, timedelta

import mlflow
import pytest
from click.testing import CliRunner
from optuna.trial import FrozenTrial, TrialState

from dpib.errors import UserError
from dpib.sweeps.study import Progress
from dpib.sweeps.suite import cells, estimate, read_suite, resolve
from dpib.tracking import Store
from entrypoints import report as report_command
from entrypoints import suite as suite_command

ONE = {"eval.classifiers.wrn": "none", "eval.schedule.epochs": "1", "generate.images": "60"}


def test_the_shipped_suite_is_two_methods_at_two_epsilons():
    found = resolve(read_suite("smoke", {}))
    assert {(c.config.method, c.config.epsilon) for c in found} == {
        ("dp-merf", 1), ("dp-merf", 10), ("dpdm", 1), ("dpdm", 10),
    }  # fmt: skip
    assert {c.config.profile for c in found} == {"smoke"}


def test_the_command_line_is_laid_over_every_cell_and_seeds_vary_slowest():
    suite = read_suite("smoke", {"suite.seeds": "[3, 4]", "suite.methods": "[dp-merf]", "train.lr": "0.5"})
    values = list(cells(suite))
    assert [v["seed"] for v in values] == [3, 3, 4, 4]
    assert all(v["train"] == {"lr": 0.5} for v in values)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"suite.methods": "[dp-merv]"}, "did you mean 'dp-merf'"),
        ({"suite.sed": "[1]"}, "unknown key 'sed'"),
        ({"train.lrr": "1"}, "did you mean 'train.lr'"),
        ({"suite.methods": "[dp-merf, pdp-diffusion]"}, "pdp-diffusion goes on from public images: give -P public="),
    ],
)
def test_a_misspelt_suite_is_refused_before_anything_runs(overrides, says):
    with pytest.raises(UserError, match=says):
        resolve(read_suite("smoke", overrides))


def cell(minutes, **attrs):
    began = datetime(2026, 1, 1)
    return FrozenTrial(
        number=0, trial_id=0, state=TrialState.COMPLETE, value=1.0, params={}, distributions={}, user_attrs=attrs,
        system_attrs={}, intermediate_values={}, datetime_start=began,
        datetime_complete=began + timedelta(minutes=minutes),
    )  # fmt: skip


def test_what_is_left_is_estimated_from_the_cells_that_were_really_run(monkeypatch):
    monkeypatch.setattr("dpib.sweeps.suite.time.time", lambda: 1120.0)
    run, reused = cell(6), cell(0, reused=True)
    waiting = dict.fromkeys((5, 6, 7, 8), reused)
    progress = Progress(done={0: run, 1: cell(2), 2: reused}, failed={3: run}, active=waiting)
    assert estimate(progress, 2, 1000.0) == "3 of 8 cells done, 1 failed, about 8.0 min left"
    assert estimate(Progress(done={0: reused}, active=waiting), 1, 1000.0) == "1 of 5 cells done"
    assert estimate(Progress(done={0: run}), 1, 1000.0) == "1 of 1 cells done, in 2.0 min"


def test_a_suite_goes_on_after_a_failure_reports_and_reuses_what_is_finished(tiny, tracking_uri, tmp_path):
    flags = [f"--{key}={value}" for key, value in {**tiny, **ONE}.items()]
    # fmnist_28 is not prepared here: its cell fails.
    chosen = ["--config=smoke", "--suite.methods=[dp-merf]", "--suite.datasets=[fmnist_28, digits_28]", *flags]
    first = CliRunner().invoke(suite_command.main, chosen)
    assert first.exit_code == 0, first.output
    assert "2 of 4 cells done" in first.output
    assert "is not prepared" in first.output
    run_id = re.search(r"suite run (\w+)", first.output).group(1)
    listed = json.loads(Store(tracking_uri).fetch(run_id, "cells.json").read_text())
    assert [bool(cell["run"]) for cell in listed] == [cell["dataset"] == "digits_28" for cell in listed]
    mains = {cell["run"] for cell in listed if cell["run"]}
    assert {mlflow.get_run(run).data.tags["dpib.stage"] for run in mains} == {"main"}
    assert "| dp-merf | digits_28 | smoke |" in Store(tracking_uri).fetch(run_id, "summary.md").read_text()
    only = ["--config=smoke", "--suite.methods=[dp-merf]", "--suite.datasets=[digits_28]", *flags]
    again = CliRunner().invoke(suite_command.main, only)
    assert "reusing run" in again.output
    assert "2 of 2 cells done" in again.output
    made = CliRunner().invoke(report_command.main, ["--suite_run", run_id, "--out", str(tmp_path / "report")])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "report" / "figures" / "accuracy_over_epsilon.svg").is_file()
    whole = CliRunner().invoke(report_command.main, ["--experiment=dpib-digits_28", "--out", str(tmp_path / "all")])
    assert "2 runs, written" in whole.output
    assert "give either" in CliRunner().invoke(report_command.main, []).output
