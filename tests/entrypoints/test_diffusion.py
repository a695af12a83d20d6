"""The diffusion methods as a shell sees them: killed by -9 and resumed, and in several processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import torch

from dpib import checkpoint
from dpib.data.synthetic import read_gen
from dpib.privacy.ledger import Account
from dpib.tracking import Store
from entrypoints.launch import culprit
from tests.conftest import TINY_DIFFUSION
from tests.processes import wait_for

SMALL = {
    **TINY_DIFFUSION,
    "method": "dpdm",
    "device": "cpu",
    "oversubscribe": "true",  # two processes are meant to work on one core as well
    "pretrain.steps": "3",
    "generate.images": "45",
    "generate.batch": "10",
}


@pytest.fixture
def environment(tracking_uri):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": tracking_uri, "OMP_NUM_THREADS": "1"}


def command(stage, **changed):
    keys = {**SMALL, **{k.replace("__", "."): v for k, v in changed.items()}}
    flags = [f"--{key}={value}" for key, value in keys.items() if value is not None]
    return [sys.executable, "-m", f"entrypoints.{stage}", *flags]


def run(root, environment, words):
    done = subprocess.run(words, env=environment, cwd=root, capture_output=True, text=True, check=False)
    return done


def finished(root, environment, words):
    done = run(root, environment, words)
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition(" run ")[2].split()[0]


@pytest.mark.slow
def test_a_training_killed_by_nine_ends_with_the_steps_and_the_ledger_of_an_unbroken_one(root, environment, tmp_path):
    words = command("train", train__steps="300")
    process = subprocess.Popen(words, env=environment, cwd=root, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    snapshots = tmp_path / "home" / "work"
    wait_for(lambda: list(snapshots.glob("train-*/artifacts/checkpoints/snapshot.safetensors")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (killed,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    store = Store()
    run_id = finished(root, environment, words)
    assert run_id == killed.info.run_id
    ledger = Account.parse(store.fetch(run_id, "privacy/ledger.json").read_text())
    assert [(e.id, e.count) for e in ledger.events] == [("train/dp-sgd", 300)]
    assert checkpoint.load(store.fetch(run_id, "checkpoints/snapshot.safetensors"))["step"] == 300
    said = store.fetch(run_id, "logs/stage.log").read_text()
    resumed = int(said.partition("resumed at step ")[2].split()[0])
    assert 0 < resumed < 300
    assert resumed % 30 == 0  # a tenth of the steps: that of the last grid that was shown
    fresh = finished(root, environment, command("train", train__steps="300", train__lr="0.01"))
    assert fresh != run_id
    assert "resumed" not in store.fetch(fresh, "logs/stage.log").read_text()


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(root, environment):
    store = Store()
    found = []
    for processes in ("1", "2"):
        extra = {"processes": processes, "reuse": "false", "unsafe_noise_seed": "3"}
        pretrained = finished(root, environment, command("pretrain", public="glyphs_28", **extra))
        start = {"pretrain_run": pretrained, **extra}
        trained = finished(root, environment, command("train", **start))
        words = [sys.executable, "-m", "entrypoints.generate", f"--train_run={trained}", f"--processes={processes}"]
        drawn = finished(root, environment, [*words, "--reuse=false"])
        weights = [checkpoint.load(store.fetch(r, "checkpoints/final.safetensors")) for r in (pretrained, trained)]
        found.append((weights, store.fetch(drawn, "gen/gen.npz"), store.fetch(trained, "privacy/ledger.json")))
    (alone, gen_alone, ledger_alone), (together, gen_together, ledger_together) = found
    for a, b in zip(alone, together, strict=True):
        for name, value in a["denoiser"].items():
            assert torch.allclose(value, b["denoiser"][name], atol=1e-5), name
    assert ledger_alone.read_text() == ledger_together.read_text()
    from dpib.data.catalog import find_card

    card = find_card("digits_28", root)
    (first, _), (second, _) = read_gen(gen_alone, card), read_gen(gen_together, card)
    assert len(first) == len(second) == 45
    assert torch.equal(first.y, second.y)
    assert (first.x.int() - second.x.int()).abs().max() <= 1
    stages = [r.data.tags["dpib.stage"] for r in mlflow.search_runs(search_all_experiments=True, output_format="list")]
    assert sorted(stages) == ["generate"] * 2 + ["pretrain"] * 2 + ["train"] * 2


@pytest.mark.slow
def test_a_process_that_fails_fails_the_run(root, environment):
    words = command("train", processes="2", train__tune="[nothing.*]", checkpoint="nowhere.safetensors")
    failed = run(root, environment, words)
    assert failed.returncode == 1
    assert "nowhere.safetensors does not exist" in failed.stderr
    assert "of 2 failed with exit code 1" in failed.stderr.strip().splitlines()[-1]


def test_the_process_that_is_named_is_one_that_failed_by_itself():
    assert culprit({0: -15, 1: 1}) == 1
    assert culprit({0: 1, 1: -15}) == 0
    assert culprit({1: -9, 2: -15}) == 1
