"""What a trial costs beside its own work, and how much faster two workers are than one.

    python -m benchmarks.sweep_overhead --trials 8

The sweep is real (a small ResNet on the bundled digits, mode compose); overhead is the time of a trial less that of
training its classifier, which is measured by itself on the same images.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import optuna

from dpib.sweeps.study import Study

ROOT = Path(__file__).resolve().parents[1]
KEYS = {
    "eval.classifiers": "{resnet: {depth: 8, width: 8}, wrn: null, resnext: null}",
    "sweep.mode": "compose",
    # Fixed: a free one would take the whole cap, and leave nothing to the second sweep of the same images.
    "sweep.score.sigma": "20",
    "sweep.space": "{eval.schedule.lr: {low: 0.001, high: 0.02}}",
}
BARE = """
import sys, time
from dpib.data.synthetic import read_gen
from dpib.distributed import World
from dpib.follower import SilentLog
from dpib.stages.context import Context
from dpib.sweeps import trial
from dpib.tracking import Store
from dpib.config import from_text
from pathlib import Path
import torch
store, run = Store(), sys.argv[1]
config, card = from_text(store.fetch(run, "config.yaml").read_text(), {}, "run")
images, _ = read_gen(store.fetch(run, "gen/gen.npz"), card)
context = Context(config, card, torch.device("cpu"), Path(), Path(), SilentLog(Path("none")), World())
for _ in range(3):
    began = time.monotonic()
    trial.fit(context, images, lambda step, value: False)
    print("SECONDS", time.monotonic() - began)
"""


def sweep(environment: dict[str, str], trials: int, workers: int) -> tuple[str, list[float], float]:
    """Return the generate run, the seconds of every trial, and those from the first begin to the last end."""
    keys = {**KEYS, "sweep.trials": str(trials), "sweep.name": f"overhead-{workers}-{time.time_ns()}"}
    flags = [f"--{key}={value}" for key, value in keys.items()]
    command = [sys.executable, "-m", "entrypoints.sweep", "--config=classifier", "--sweep.epsilon_total=1000", *flags]
    done = subprocess.run(
        [*command, f"--workers={workers}"], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    name = re.search(r"study (\S+)", done.stderr)
    assert name is not None
    study = Study.join(environment["DPIB_STORAGE"], name.group(1))
    ended = [t for t in study.optuna.get_trials() if t.state == optuna.trial.TrialState.COMPLETE]
    assert len(ended) == trials
    seconds = [(t.datetime_complete - t.datetime_start).total_seconds() for t in ended]  # type: ignore[operator]
    span = max(t.datetime_complete for t in ended) - min(t.datetime_start for t in ended)  # type: ignore[type-var, operator]
    return study.memo["generate_run"], seconds, span.total_seconds()


@click.command()
@click.option("--trials", default=8)
def main(trials: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="dpib-overhead-"))
    environment = {
        **os.environ,
        "DPIB_HOME": str(folder / "home"),
        "DPIB_STORAGE": f"sqlite:///{folder / 'sweeps.db'}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "OMP_NUM_THREADS": "1",
    }
    try:
        run, alone, span_one = sweep(environment, trials, 1)
        command = [sys.executable, "-c", BARE, run]
        bare = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        fit = sorted(float(line.split()[1]) for line in bare.splitlines() if line.startswith("SECONDS"))[1]
        _, _, span_two = sweep(environment, trials, 2)
        middle = sorted(alone)[len(alone) // 2]
        print(f"one trial {middle:.2f} s, its classifier alone {fit:.2f} s: overhead {middle - fit:.2f} s (medians)")
        print(f"{trials} trials: one worker {span_one:.1f} s, two {span_two:.1f} s: {span_one / span_two:.2f} x")
        print("(one thread each; the second worker's start, about its imports, is within its time)")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
