"""Three workers on PostgreSQL, two of them killed at random moments: is anything lost, or released twice?

    python -m benchmarks.sweep_chaos --rounds 3

Every round makes a sweep of classifiers and one of synthesizers in mode compose, with real trials on the bundled
digits, and every worker has a home of its own, as on a machine of its own. PostgreSQL is started for it (Debian's
package) and thrown away.
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

from dpib.spendings import TAG
from dpib.sweeps.book import Book
from dpib.sweeps.study import Progress, Study
from dpib.tracking import Store
from tests.conftest import TINY
from tests.postgres import missing, server

ROOT = Path(__file__).resolve().parents[1]
# Trials of several seconds, so that a kill finds one at work.
WORK = {"eval.classifiers.wrn": "none", "generate.images": "1000", "eval.schedule.epochs": "6"}
CLASSIFIER = {"sweep.mode": "compose", "sweep.space": "{eval.schedule.lr: {low: 0.001, high: 0.02}}"}
SYNTHESIZER = {
    "train.steps": "300",
    "eval.schedule.epochs": "3",
    "sweep.epsilon_total": "200",
    "sweep.space": "{train.lr: {low: 0.001, high: 0.02}}",
}
KINDS = {"classifier": CLASSIFIER, "synthesizer": SYNTHESIZER}


def launcher(environment: dict[str, str], kind: str, trials: int) -> subprocess.Popen[str]:
    sweep = {"sweep.mode": "compose", "sweep.trials": str(trials), "sweep.heartbeat": "2", "sweep.sampler": "tpe"}
    keys = [f"--{key}={value}" for key, value in {**TINY, **WORK, **sweep, **KINDS[kind]}.items()]
    command = [sys.executable, "-m", "entrypoints.sweep", f"--config={kind}", "--reuse=false", *keys]
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


def round_of_chaos(environment: dict[str, str], kind: str, trials: int, draw: random.Random) -> dict[str, float]:
    began, url = time.monotonic(), environment["DPIB_STORAGE"]
    process = launcher(environment, kind, trials)
    name = study_of(process)
    command = [sys.executable, "-m", "entrypoints.sweep_worker", "--study", name, "--worker"]
    victims = [
        subprocess.Popen(
            [*command, str(i)],
            env={**environment, "DPIB_HOME": f"{environment['DPIB_HOME']}-{i}"},
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        for i in (1, 2)
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
    out, errors = process.communicate()
    assert process.returncode == 0, out + errors
    progress = study.progress()
    assert sorted(progress.done) == list(range(trials)), "a trial was lost"
    store = Store(environment["MLFLOW_TRACKING_URI"])
    trainings = check_charges(Book(url, name), store, name, kind, progress)
    assert store.reap() == [], "a run of a dead worker was left open"
    attempts = len(study.optuna.get_trials())
    seconds = time.monotonic() - began
    return {"kills": kills, "trials": trials, "attempts": attempts, "trainings": trainings, "seconds": seconds}


def check_charges(book: Book, store: Store, name: str, kind: str, progress: Progress) -> int:
    """Compare what is charged with what was released and shown; return how many trainings were charged."""
    events = book.account().events
    scores = [e.id for e in events if e.scope == "val"]
    wanted = [f"val/{name}/trial-{slot:03d}/score" for slot in progress.done]
    assert sorted(scores) == sorted(wanted), "a charge is missing or double"
    for slot, trial in progress.done.items():
        released = book.released(f"{name}/trial-{slot:03d}/score")
        assert released is not None
        assert abs(trial.values[0] - 100 * released / 150) < 1e-9, "a score is not the one that was released"
    trainings = [e.id for e in events if e.scope == "train" and f"/{name}/" in e.id]
    if kind == "synthesizer":
        shown: dict[str, int] = {}
        for run in store.records(
            runs=[run for run, _ in store.tagged(store.newest_experiment(), TAG, book.account().origins)]
        ):
            if run.name.startswith("trial-") and "train/loss" in run.metrics:
                shown[run.name] = shown.get(run.name, 0) + 1
        for trial_name, count in shown.items():
            charged = sum(f"/{trial_name}/" in each for each in trainings)
            assert count <= charged, f"{trial_name} showed {count} trainings, {charged} were charged"
    return len(trainings)


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
                for kind in KINDS:
                    found = round_of_chaos(environment, kind, trials, draw)
                    figures = ", ".join(f"{k} {v:g}" for k, v in found.items())
                    print(f"round {number}, {kind}: {figures}", flush=True)
        print(f"{rounds} rounds: none lost, every score charged and released once, every training shown was charged")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
