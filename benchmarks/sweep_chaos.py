"""Three workers on PostgreSQL, two of them killed at random moments: is anything lost, or released twice?

    python -m benchmarks.sweep_chaos --rounds 3

Every round makes a classifier sweep in mode compose with real trials on the bundled digits. PostgreSQL is started for
it (Debian's package) and thrown away.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import optuna

from dpib.sweeps.book import Book
from dpib.sweeps.study import Study
from dpib.tracking import Store
from tests.conftest import TINY
from tests.postgres import missing, server

ROOT = Path(__file__).resolve().parents[1]
# Trials of several seconds, so that a kill finds one at work.
WORK = {"eval.classifiers.wrn": "none", "generate.images": "1000", "eval.schedule.epochs": "6"}
SMALL = {**TINY, **WORK, "sweep.space": "{eval.schedule.lr: {low: 0.001, high: 0.02}}"}


def launcher(environment: dict[str, str], trials: int) -> subprocess.Popen[str]:
    sweep = {"mode": "compose", "trials": str(trials), "heartbeat": "2", "sampler": "tpe"}
    keys = [f"--{key}={value}" for key, value in SMALL.items()]
    keys += [f"--sweep.{key}={value}" for key, value in sweep.items()]
    command = [sys.executable, "-m", "entrypoints.sweep", "--config=classifier", "--reuse=false", *keys]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, cwd=ROOT, **pipes)  # type: ignore[call-overload, no-any-return]


def study_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("sweep: study "):
            return line.split()[2]
    raise SystemExit("the launcher ended before it made a study")


def at_work(study: Study) -> int:
    return sum(trial.state == optuna.trial.TrialState.RUNNING for trial in study.optuna.get_trials(deepcopy=False))


def round_of_chaos(environment: dict[str, str], url: str, trials: int, draw: random.Random) -> dict[str, float]:
    began = time.monotonic()
    process = launcher(environment, trials)
    name = study_of(process)
    command = [sys.executable, "-m", "entrypoints.sweep_worker", "--study", name, "--worker"]
    victims = [
        subprocess.Popen([*command, str(i)], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL) for i in (1, 2)
    ]
    study, kills = Study.join(url, name), 0
    for left, victim in zip((3, 2), victims, strict=True):
        # At any moment of a trial, also in the middle of a release; not before every worker has begun one.
        while at_work(study) < left and process.poll() is None:
            time.sleep(0.2)
        time.sleep(draw.uniform(0, 8))
        if victim.poll() is None:
            victim.send_signal(signal.SIGKILL)
            kills += 1
        victim.wait()
    out, _ = process.communicate()
    assert process.returncode == 0, out
    account, progress = Book(url, name).account(), study.progress()
    attempts = len(study.optuna.get_trials())
    scores = [e.id for e in account.events if e.scope == "val"]
    assert sorted(progress.done) == list(range(trials)), "a trial was lost"
    assert sorted(scores) == [f"val/{name}/trial-{i:03d}/score" for i in range(trials)], "a charge is missing or double"
    for slot, trial in progress.done.items():
        released = Book(url, name).released(f"{name}/trial-{slot:03d}/score")
        assert released is not None
        assert abs(trial.values[0] - 100 * released / 150) < 1e-9, "a score is not the one that was released"
    assert Store(environment["MLFLOW_TRACKING_URI"]).reap() == [], "a run of a dead worker was left open"
    return {"kills": kills, "trials": trials, "attempts": attempts, "seconds": time.monotonic() - began}


@click.command()
@click.option("--rounds", default=3)
@click.option("--trials", default=14)
@click.option("--seed", default=0)
def main(rounds: int, trials: int, seed: int) -> None:
    if (reason := missing()) is not None:
        raise SystemExit(reason)
    folder, draw = Path(tempfile.mkdtemp(prefix="dpib-chaos-")), random.Random(seed)
    try:
        with server() as url:
            environment = {
                **os.environ,
                "DPIB_HOME": str(folder / "home"),
                "DPIB_STORAGE": url,
                "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
                "OMP_NUM_THREADS": "1",
            }
            for number in range(rounds):
                found = round_of_chaos(environment, url, trials, draw)
                print(f"round {number}: " + ", ".join(f"{k} {v:g}" for k, v in found.items()), flush=True)
        print(f"{rounds} rounds: every trial complete, none lost, every score charged and released once")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
