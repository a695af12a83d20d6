"""Commands that start others: killed for real, they leave nothing at work and no run open."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

from dpib.errors import UserError
from dpib.lifeline import Process, mlflow_run
from dpib.tracking import Store
from entrypoints import launch
from tests.processes import ends, wait_for

# What a process of a run comes down to: work that nobody told to end.
RANK = """
import entrypoints, os, sys
from pathlib import Path
Path(sys.argv[1], os.environ["RANK"]).write_text(str(os.getpid()))
while True:
    sum(range(10**5))
"""
PROCESSES = """
import sys
from types import SimpleNamespace
from entrypoints import cli, launch
@cli.guarded
def main():
    launch.relaunched(SimpleNamespace(processes=2, device="cpu", oversubscribe=True), "rank")
main()
"""
WORKERS = """
import sys
from dpib.config.reach import source_digest
from dpib.sweeps.launch import local_workers
from dpib.sweeps.study import Study
suite = dict(name="s", methods=["dp-merf"], datasets=["digits_28"], epsilons=[1.0], seeds=[0])
memo = dict(work="suite", code=source_digest(), tracking=sys.argv[1], suite=suite, workers=2)
study = Study.create(sys.argv[2], "s", memo, [{}], "maximize", 3600)
study.begin(study.optuna.ask())  # the only slot is taken: the worker waits for whatever comes
with local_workers(study, 1):
    sys.stdin.read()
"""


@pytest.fixture
def environment(root, tmp_path, tracking_uri):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}", "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "1"}


def children(pid):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] not in "ZX":
            found.append(Process.of(int(folder.name)))
    return found


@pytest.fixture
def two_processes(environment, tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    (tmp_path / "ranks").mkdir()
    command = [sys.executable, "-c", PROCESSES, str(tmp_path / "ranks")]
    launcher = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len([p for p in (tmp_path / "ranks").iterdir() if p.read_text()]) == 2, launcher)
    yield launcher, [Process.of(int(path.read_text())) for path in (tmp_path / "ranks").iterdir()]
    launcher.kill()
    launcher.wait()
    launcher.stderr.close()


def test_processes_end_with_the_launcher_that_is_killed(two_processes):
    launcher, ranks = two_processes
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    assert all(ends(rank) for rank in ranks)


def test_a_launcher_of_several_that_is_asked_to_end_says_so_in_one_line(two_processes):
    launcher, ranks = two_processes
    launcher.terminate()
    assert launcher.wait() == 130
    said = launcher.stderr.read()
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1] == "stopped; the same command resumes it"
    assert all(ends(rank) for rank in ranks)


def test_workers_end_with_the_launcher_that_is_killed(environment, tracking_uri, tmp_path):
    command = [sys.executable, "-c", WORKERS, tracking_uri, f"sqlite:///{tmp_path / 'study.db'}"]
    launcher = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)
    (worker,) = wait_for(lambda: children(launcher.pid), launcher)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    launcher.stdin.close()
    assert ends(worker, allowance=20.0)


def test_a_child_whose_launcher_is_gone_before_it_looks_does_not_begin(environment):
    other = {**environment, "DPIB_LAUNCHER": "1"}
    command = [sys.executable, "-c", "import entrypoints; print('begun')"]
    done = subprocess.run(command, env=other, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_more_processes_than_cores_are_refused_with_the_number_that_fits(monkeypatch):
    monkeypatch.setattr(launch, "cores", lambda: 3)
    asked = SimpleNamespace(processes=100, device="cpu", oversubscribe=False)
    with pytest.raises(UserError, match="processes=100, but this machine has room for 3: give processes=3, or overs"):
        launch.relaunched(asked, "entrypoints.train")
    launch.fits("workers", 3, 3, False)
    launch.fits("workers", 4, 3, True)


def test_a_shell_that_has_the_variables_of_mlflow_is_no_launcher(environment, root):
    variables = {"MLFLOW_RUN_ID": "1", "MLFLOW_EXPERIMENT_ID": "0"}
    script = "from dpib.lifeline import mlflow_run; print(mlflow_run())"
    inside = f'export MLFLOW_RUN_ID=1 MLFLOW_EXPERIMENT_ID=0; {sys.executable} -c "{script}"; true'
    done = subprocess.run(["bash", "-c", inside], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
    # As below `mlflow run`: a shell in between, and the variables in the environment of everything below it.
    inside = f'{sys.executable} -c "{script}"; true'
    below = {**environment, **variables}
    done = subprocess.run(["bash", "-c", inside], env=below, capture_output=True, text=True, check=True)
    assert f"pid={os.getpid()}," in done.stdout
    assert mlflow_run() is None


@pytest.mark.slow
def test_mlflow_run_that_is_killed_leaves_nothing_at_work_and_no_run_open(environment, tiny, root, tmp_path):
    keys = [word for key, value in {**tiny, "train.steps": "4000"}.items() for word in ("-P", f"{key}={value}")]
    command = ["mlflow", "run", str(root), "--env-manager", "local", "-e", "train", *keys]

    def begin():
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    launcher = begin()
    release = "work/train-*/private/train-embedding.safetensors"
    wait_for(lambda: list((tmp_path / "home").glob(release)), launcher)
    (training,) = runs("tags.`dpib.stage` = 'train'")
    pid, _, began = training.data.tags["dpib.process"].partition(":")
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    assert ends(Process(int(pid), began), allowance=30.0)
    # It did not come to its own end.
    assert runs("attributes.status = 'FINISHED' and tags.`dpib.stage` = 'train'") == []
    assert begin().wait() == 0
    assert runs("attributes.status = 'FINISHED' and tags.`dpib.stage` = 'train'")[0].info.run_id == training.info.run_id
    Store().reap()
    Store().reap()
    assert runs("attributes.status = 'RUNNING'") == []
    assert [run.info.run_id for run in runs("")] == [training.info.run_id]


def runs(query):
    return mlflow.search_runs(search_all_experiments=True, filter_string=query, output_format="list")


def test_a_request_to_end_that_is_lost_is_repeated(environment, tmp_path):
    script = """
import entrypoints, os, signal
def lose(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, lose)
try:
    print(os.getpid(), flush=True)
    while True:
        sum(range(10**5))
except:
    pass
while True:
    sum(range(10**5))
"""
    run = f"subprocess.run([sys.executable, '-c', {script!r}])"
    outer = f"import os, subprocess, sys; os.environ['DPIB_LAUNCHER'] = str(os.getpid()); {run}"
    launcher = subprocess.Popen([sys.executable, "-c", outer], env=environment, stdout=subprocess.PIPE, text=True)
    child = Process.of(int(launcher.stdout.readline()))
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    assert ends(child)
