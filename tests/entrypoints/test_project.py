"""The MLflow project itself: through the real `mlflow run`, and killed for real."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml

from dpib.config.schema import Config
from dpib.section import dotted_keys
from dpib.tracking import Store
from tests.processes import wait_for


@pytest.fixture
def environment(tracking_uri):
    """Return the environment of a child process that sees this test's home and store."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": tracking_uri, "MLFLOW_DISABLE_TELEMETRY": "true"}


def project_run(root, environment, *arguments):
    command = ["mlflow", "run", str(root), "--env-manager", "local", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_mlflow_run_does_the_main_job(root, environment, tiny, tracking_uri):
    keys = [word for key, value in tiny.items() for word in ("-P", f"{key}={value}")]
    done = project_run(root, environment, "-P", "note=from-mlflow", *keys)
    assert done.returncode == 0, done.stderr
    assert "best by DP selection" in done.stdout
    # The run that `mlflow run` made is put away by the next command; its id still leads to the real one.
    Store(tracking_uri).reap()
    active = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert {r.data.tags["dpib.stage"] for r in active} == {"main", "train", "generate", "evaluate"}
    (main,) = [r for r in active if r.data.tags["dpib.stage"] == "main"]
    assert main.info.run_name == "dp-merf-digits_28-eps10-s0-from-mlflow"
    assert main.data.tags["mlflow.project.entryPoint"] == "main"
    launched = done.stderr.rpartition("Run (ID '")[2].partition("'")[0]
    assert launched != main.info.run_id
    assert Store(tracking_uri).follow(launched) == main.info.run_id
    refused = project_run(root, environment, "-e", "generate", "-P", f"train_run={launched}", "-P", "train.lr=1")
    assert refused.returncode != 0
    assert "Error: train.lr belongs to the train stage" in refused.stderr


def test_a_project_from_a_git_address_works_in_the_folder_of_its_caller(root, environment, tiny, tmp_path):
    repository, caller = tmp_path / "repository", tmp_path / "caller"
    repository.mkdir()
    caller.mkdir()
    for name in ("MLproject", "conda.yaml", "configs", "dpib", "entrypoints"):
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        copy(root / name, repository / name)
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    np.savez(
        caller / "mine.npz", x=np.zeros((100, 28, 28), np.uint8) + np.arange(28, dtype=np.uint8), y=np.arange(100) % 10
    )
    keys = [word for key, value in tiny.items() if key.startswith("eval") for word in ("-P", f"{key}={value}")]
    own = {key: value for key, value in environment.items() if key != "MLFLOW_TRACKING_URI"}
    command = ["mlflow", "run", f"file://{repository}", "--env-manager", "local", "-e", "evaluate"]
    words = [*command, "-P", "gen=mine.npz", "-P", "dataset=digits_28", *keys]
    done = subprocess.run(words, env=own, cwd=caller, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    store = Store(f"sqlite:///{caller / 'mlflow.db'}")
    (record,) = mlflow.MlflowClient(store.uri).search_runs([store.experiment("digits_28", "")])
    report = store.fetch(record.info.run_id, "report.json")
    assert report.is_relative_to(caller / "mlruns" / "dpib-digits_28")
    assert sorted(path.name for path in caller.iterdir()) == ["mine.npz", "mlflow.db", "mlruns"]
    assert not (repository / "mlruns").exists()


def test_every_parameter_of_the_project_is_one_of_its_command(root):
    project = yaml.safe_load((root / "MLproject").read_text())
    assert project["conda_env"] == "conda.yaml"
    keys = set(dotted_keys(Config))
    for name, entry in project["entry_points"].items():
        module = __import__(f"entrypoints.{name}", fromlist=["main"])
        options = {p.name for p in module.main.params if p.param_type_name == "option"}
        words = entry["command"].split()
        assert words[:3] == ["python", "-m", f"entrypoints.{name}"]
        for parameter, kind in entry["parameters"].items():
            assert f"{{{parameter}}}" in words, (name, parameter)
            assert parameter in options | keys, (name, parameter)
            assert kind["type"] in ("string", "float", "int")
        assert options <= set(entry["parameters"]), name


def test_conda_and_lock_are_the_same_environment(root):
    conda = yaml.safe_load((root / "conda.yaml").read_text())
    assert conda["dependencies"] == ["python=3.11", "pip", {"pip": ["-r requirements.lock"]}]
    lock = (root / "requirements.lock").read_text()
    for pinned in ("mlflow==3.17.2", "torch==2.11.0", "torchvision==0.26.0"):
        assert f"\n{pinned} \\" in lock
    assert "://" not in lock
    assert not any(line.startswith("--") for line in lock.splitlines())


def test_another_python_is_refused_before_an_environment_is_made_from_it(root, tmp_path):
    shutil.copy(root / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").touch()
    other = tmp_path / "python3.12"
    told = "import sys; sys.version_info = (3, 12, 1); exec(sys.argv[2])"
    other.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{told}" "$@"\n')
    other.chmod(0o755)
    command = ["make", f"PYTHON={other}", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"dpib needs Python 3.11, and {other} is 3.12: make PYTHON=<a Python 3.11>" in done.stderr
    assert not (tmp_path / ".venv").exists()


def start_training(environment, tiny, root, *extra):
    flags = [f"--{key}={value}" for key, value in {**tiny, "train.steps": "4000"}.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "entrypoints.main", *flags, *extra],
        env=environment, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def wait_for_release(home, process):
    """Return the bytes of the finished release as soon as it is on disk."""
    (path,) = wait_for(lambda: list(home.glob("work/train-*/private/train-embedding.safetensors")), process)
    return path, path.read_bytes()


@pytest.fixture
def killed(environment, tiny, root, tmp_path):
    """Return (release, its bytes) of a main run that was killed by -9 while its generator was fitted."""
    process = start_training(environment, tiny, root)
    path, content = wait_for_release(tmp_path / "home", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return path, content


def states():
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    return {r.data.tags["dpib.stage"]: (r.info.run_id, r.info.status) for r in found}


def test_a_killed_run_is_resumed_by_the_same_command(killed, environment, tiny, root, tmp_path):
    path, content = killed
    before = states()
    assert {status for _, status in before.values()} == {"RUNNING"}
    process = start_training(environment, tiny, root)
    # While it goes on, the release is the one drawn before the kill.
    while process.poll() is None and path.exists():
        try:
            assert path.read_bytes() == content
        except FileNotFoundError:
            break
        time.sleep(0.05)
    assert process.wait() == 0
    after = states()
    assert {s: r for s, (r, _) in after.items() if s in before} == {s: r for s, (r, _) in before.items()}
    assert {status for _, status in after.values()} == {"FINISHED"}
    ledger = yaml.safe_load(Store().fetch(after["train"][0], "privacy/ledger.json").read_text())
    assert [event["id"] for event in ledger["events"]] == ["train/embedding"]
    assert list((tmp_path / "home" / "work").iterdir()) == []


def test_a_killed_run_can_be_started_afresh(killed, environment, tiny, root):
    before = states()
    process = start_training(environment, tiny, root, "--resume=false")
    assert process.wait() == 0
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    status = {r.info.run_id: r.info.status for r in found}
    assert {status[run] for run, _ in before.values()} == {"KILLED"}
    assert sum(s == "FINISHED" for s in status.values()) == 4


def test_a_dead_run_is_closed_by_whatever_is_run_next(killed, tracking_uri):
    assert len(Store(tracking_uri).reap()) == 2
    assert {status for _, status in states().values()} == {"KILLED"}
    assert Store(tracking_uri).reap() == []


def test_a_live_run_is_left_alone(tracking_uri):
    store = Store(tracking_uri)
    run = store.begin(store.experiment("toy", "Toy"), "alive", {"dpib.stage": "main"}, None)
    assert store.reap() == []
    run.finish()
