"""The commands as a shell sees them: one-line refusals, summaries, files given by path."""

import importlib

import mlflow
import numpy as np
import pytest
from click.testing import CliRunner

from entrypoints import cli


def call(name, *arguments):
    module = importlib.import_module(f"entrypoints.{name}")
    return CliRunner().invoke(module.main, [str(a) for a in arguments])


def flags(tiny):
    return [f"--{key}={value}" for key, value in tiny.items()]


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
    def run_id(result):
        assert result.exit_code == 0, result.output
        return result.output.rpartition(" run ")[2].split()[0]

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


def test_a_full_disk_is_one_line(tiny, tracking_uri, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "gen.npz")

    monkeypatch.setattr(np, "savez", full)
    result = call("main", *flags(tiny))
    assert result.exit_code == 1
    assert "Error: the disk is full while writing gen.npz" in result.output
