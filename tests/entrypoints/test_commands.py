"""The commands as a shell sees them: one-line refusals, summaries, files given by path."""

import errno
import re
import shutil
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from safetensors import SafetensorError

from entrypoints import cli
from tests.entrypoints.calling import call, flags, last_line, run_id


def test_overrides_are_read_in_both_spellings():
    assert cli.overrides(["--train.lr", "3", "--note=a=b"]) == {"train.lr": "3", "note": "a=b"}
    assert cli.overrides(["--x", "-1"]) == {"x": "-1"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train.lr=3"], "cannot read 'train.lr=3'"),
        (["--train.lr"], "--train.lr has no value"),
        (["--a=1", "--a=2"], "a is given twice"),
        (["--train.lrr=3"], "did you mean 'train.lr'?"),
        (["--dataset=mnist_28"], "MNIST is not prepared"),
        (["--eval.inception_weights=/nowhere.pth", "--eval.embedding=inception"], "/nowhere.pth do not exist"),
    ],
)
def test_a_user_error_is_one_line_without_a_traceback(tiny, tracking_uri, arguments, says):
    chosen = [f for f in flags(tiny) if f.partition("=")[0] not in {a.partition("=")[0] for a in arguments}]
    result = call("main", *chosen, *arguments)
    assert result.exit_code == 1
    last = result.output.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert says in last
    assert "Traceback" not in result.output


def test_main_prints_what_it_did(tiny, tracking_uri):
    result = call("main", *flags(tiny))
    assert result.exit_code == 0, result.output
    for part in ("epsilon 10 (train 10, selection 10)", "best by DP selection", "random embedding", "sample.png",
                 "make ui", "workflowType=machine_learning"):  # fmt: skip
        assert part in result.output
    again = call("main", *flags(tiny))
    assert "reusing run" in again.output


def test_stages_chain_on_the_command_line(tiny, tracking_uri, tmp_path):
    trained = run_id(call("train", *flags(tiny)))
    generated = run_id(call("generate", "--train_run", trained))
    judged = call("evaluate", "--generate_run", generated)
    assert "utility/accuracy_best" in judged.output
    again = call("evaluate", "--generate_run", generated)
    assert "(reused)" in again.output


def test_evaluate_wants_exactly_one_input(tracking_uri):
    for arguments in ([], ["--gen=a.npz", "--generate_run=b"]):
        assert "give either" in call("evaluate", *arguments).output
    assert "say which data set" in call("evaluate", "--gen=a.npz").output
    assert "a.npz does not exist" in call("evaluate", "--gen=a.npz", "--dataset=digits_28").output


def test_evaluate_judges_a_file(tiny, tracking_uri, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "their.npz", x=rng.random((100, 28, 28)), y=np.arange(100) % 10)
    chosen = [f for f in flags(tiny) if f.startswith("--eval")]
    result = call("evaluate", f"--gen={tmp_path / 'their.npz'}", "--dataset=digits_28", *chosen)
    assert result.exit_code == 0, result.output
    assert "privacy/epsilon  " not in result.output
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.run_name == "file-digits_28-eps10-s0-their"


def test_prepare_reports_a_missing_source(tracking_uri):
    result = call("prepare", "--dataset=mnist_28", "--source=/nowhere")
    assert result.exit_code == 1
    assert "/nowhere does not exist" in result.output


def test_baseline_runs(tiny, tracking_uri):
    chosen = [f for f in flags(tiny) if f.startswith("--eval")]
    result = call("baseline", *chosen)
    assert result.exit_code == 0, result.output
    assert "utility/accuracy_best" in result.output


def test_ui_without_runs_says_what_to_do(tracking_uri):
    result = call("ui")
    assert result.exit_code == 1
    assert "no runs at" in result.output


def test_what_nobody_foresaw_is_one_line_and_its_traceback_a_private_file(tracking_uri, tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("two\nlines")

    monkeypatch.setattr("dpib.pipeline.run_baseline", broken)
    line = last_line(call("baseline"))
    assert line.startswith("Error: ValueError: two lines: nobody foresaw this; the traceback is in ")
    (log,) = (tmp_path / "home" / "logs").iterdir()
    assert line.endswith(str(log))
    assert log.stat().st_mode & 0o777 == 0o600
    assert "in broken" in log.read_text()


def test_a_traceback_that_cannot_be_kept_hides_nothing(tracking_uri, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file")
    monkeypatch.setattr("dpib.pipeline.run_baseline", lambda *_: 1 / 0)
    assert "ZeroDivisionError: division by zero: nobody foresaw this, and" in last_line(call("baseline"))


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
    ],
)
def test_a_full_disk_is_one_line_with_the_path_whatever_the_library_says(tiny, tracking_uri, monkeypatch, error):
    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr("dpib.checkpoint.save_file", full)
    line = last_line(call("train", *flags(tiny)))
    assert line.startswith("Error: the disk is full while writing /")
    assert "checkpoints/snapshot.safetensors: free some space" in line


def test_a_full_folder_is_named_where_the_error_names_none(tracking_uri, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dpib.pipeline.run_baseline", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=0 if place == tmp_path else 10**12))
    assert f"the disk is full ({tmp_path / 'home'}, {tmp_path}): free some space" in last_line(call("baseline"))


def test_a_report_is_refused_where_it_cannot_be_written(tracking_uri, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        line = last_line(call("report", "--experiment=dpib-digits_28", f"--out={out}"))
        assert "lies below, a file where a folder is needed" in line


@pytest.mark.parametrize(
    ("storage", "says"),
    [
        ("nonsense", "is no address of a database"),
        ("sqlite:////", "the database of studies sqlite:////.* does not open"),
        ("sqlite:////no/such/folder/x.db", "does not open"),
        ("postgresql+psycopg://127.0.0.1:1/studies", "does not open .*refused.*check -P storage=, or DPIB_STORAGE"),
        ("postgresql+nothing://127.0.0.1/studies", "does not open"),
    ],
)
def test_a_storage_that_is_no_database_is_refused_before_anything_is_run(tracking_uri, storage, says):
    for name in ("sweep", "suite"):
        config = {"sweep": "classifier", "suite": "smoke"}[name]
        assert re.search(says, last_line(call(name, f"--config={config}", f"--storage={storage}")))
    assert re.search(says, last_line(call("sweep_worker", "--study=s", f"--storage={storage}")))
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []


def test_a_number_of_workers_that_is_none_is_refused(tracking_uri):
    for number in (0, -3):
        for name in ("sweep", "suite"):
            result = call(name, "--config=smoke", f"--workers={number}")
            assert result.exit_code == 2
            assert "Invalid value for '--workers'" in result.output
    assert "workers=100000, but this machine has room for" in last_line(
        call("suite", "--config=smoke", "--workers=100000")
    )


def test_a_full_disk_is_one_line(tiny, tracking_uri, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "gen.npz")

    monkeypatch.setattr(np, "savez", full)
    result = call("main", *flags(tiny))
    assert result.exit_code == 1
    assert "Error: the disk is full while writing gen.npz" in result.output
