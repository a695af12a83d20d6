"""Kill a small FETA-Pro at random moments of its query, its two lessons and its training, again and again.

    python -m benchmarks.chain_kills --kills 100

A child process runs the tracked stages on the bundled digits; the parent kills it with SIGKILL after a random time
and starts it again, until the training is through. Every series must end with the ledger, the step counts and the
number of releases of the unbroken run, and nothing that was visible may come again with another content: a release
is visible once it is on disk, an image of the private training once it is tracked.
"""

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import click

from benchmarks.kills import series
from dpib import checkpoint, training
from dpib.chain import run_before, run_train
from dpib.config import compose
from dpib.images import Images
from dpib.privacy.ledger import LEDGER, Account
from dpib.privacy.vault import Vault
from dpib.stage_log import StageLog
from dpib.stages.build import FINAL
from dpib.tracking import Store
from tests.conftest import PRO, TINY_DIFFUSION

SMALL = {
    **TINY_DIFFUSION, **PRO, "epsilon": "10", "accountant": "rdp", "train.steps": "8",
    "lessons.0.fit": "{steps: 6, batch: 8}", "lessons.1.fit": "{steps: 6, batch: 8}",
}  # fmt: skip
_BLANK = "import mlflow, sys; mlflow.MlflowClient(sys.argv[1]).search_experiments()"


def chain(folder: Path) -> None:
    """Run query, pretraining and training in `folder`, and write down what came of them."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.chdir(folder)
    os.environ["DPIB_HOME"] = str(folder / "home")
    training.SNAPSHOT_SECONDS = 0.0
    watch(folder / "seen.jsonl")
    store = Store(f"sqlite:///{folder / 'mlflow.db'}")
    store.reap()
    config, card = compose(SMALL)
    before = run_before(config, card, store)
    trained = run_train(config, card, store, before.start())
    assert before.query is not None
    assert before.pretrain is not None
    steps = {}
    for run, phases in ((before.pretrain.run_id, ("central", "frequency")), (trained.run_id, ("",))):
        for phase in phases:
            file = f"checkpoints/snapshot{f'-{phase}' if phase else ''}.safetensors"
            steps[f"{phase or 'train'}"] = checkpoint.load(store.fetch(run, file))["step"]
    account = Account.parse(store.fetch(trained.run_id, str(LEDGER)).read_text())
    end = {
        "events": [event.model_dump(mode="json") for event in account.events],
        "steps": steps,
        "inputs": [store.tags(trained.run_id)["dpib.inputs"] == before.pretrain.run_id,
                   store.tags(before.pretrain.run_id)["dpib.inputs"] == before.query.run_id],
        "whole": store.fetch(trained.run_id, str(FINAL)).is_file(),
    }  # fmt: skip
    (folder / "end.json").write_text(json.dumps(end))


def watch(log: Path) -> None:
    """Write down every release that is on disk, and every image of the training that is tracked."""
    finish, grid = Vault._finish, StageLog.grid

    def note(what: str, content: bytes) -> None:
        with log.open("a") as handle:
            handle.write(json.dumps([what, hashlib.sha256(content).hexdigest()]) + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def finished(self: Vault, name: str, value: Any, index: int = 0) -> Any:
        found = finish(self, name, value, index)
        note(f"release {name} {index}", found.numpy().tobytes())
        return found

    def shown(self: StageLog, name: str, images: Images, step: int) -> None:
        grid(self, name, images, step)
        if name == "train-samples":
            note(f"image {step}", images.x.numpy().tobytes())

    Vault._finish, StageLog.grid = finished, shown  # type: ignore[method-assign]


def outcome(folder: Path) -> tuple[str, int]:
    """Return the end of a chain, and how many releases were visible.

    Raises:
        AssertionError: when one was visible with two contents.
    """
    contents: dict[str, set[str]] = defaultdict(set)
    for line in (folder / "seen.jsonl").read_text().splitlines():
        what, digest = json.loads(line)
        contents[what].add(digest)
    twice = {what for what, digests in contents.items() if len(digests) > 1}
    assert not twice, f"visible with two contents: {twice}"
    return (folder / "end.json").read_text(), sum(what.startswith("release") for what in contents)


def chains(least: int, seed: int) -> tuple[int, int]:
    """Run `series` of small chains."""
    importlib.import_module("torchvision.transforms.v2")
    with tempfile.TemporaryDirectory(prefix="dpib-kills-") as root:
        blank = Path(root) / "blank.db"
        subprocess.run([sys.executable, "-c", _BLANK, f"sqlite:///{blank}"], check=True)

        def prepare(folder: Path) -> None:
            shutil.copy(blank, folder / "mlflow.db")

        return series(chain, outcome, least, seed, prepare)


@click.command()
@click.option("--kills", default=100)
@click.option("--seed", default=0)
def main(kills: int, seed: int) -> None:
    """Print what happened."""
    done, runs = chains(kills, seed)
    print(f"{done} kills over {runs} chains, each ending with the ledger, steps and releases of the unbroken one")


if __name__ == "__main__":
    main()
