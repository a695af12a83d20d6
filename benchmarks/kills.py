"""Kill a small DP-SGD training at random moments, again and again, and compare with one that was left alone.

    python -m benchmarks.kills --kills 100

A child process trains with a vault, a ledger and snapshots on disk, as a stage does; the parent kills it with
SIGKILL after a random time and starts it again, until the training is through. Every series must end with the
ledger and the number of steps of the unbroken run, and no step may be shown twice with different content: what
was seen is never drawn again.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpib import checkpoint, seeding
from dpib.checkpoint import State
from dpib.draws import Draws
from dpib.images import Images, from_unit
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault
from dpib.training import cosine, fit

N, STEPS, SHOWN = 200, 30, 10
PLAN = (Charge("dp-sgd", "gaussian", "a small training", sigma=1.0, rate=0.1, count=STEPS),)


class Loss:
    """Squared error of a linear autoencoder, two noise draws per record."""

    multiplicity = 2

    def rows(self, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        clean = x.float().flatten(1) / 255
        return (clean[:, None] + 0.1 * draws.normal(2, clean.shape[1]),)

    def per_row(self, model: nn.Module, *rows: Tensor) -> Tensor:
        return F.mse_loss(model(rows[0]), rows[0], reduction="none").mean(1)


class DiskLog:
    """The log of a stage in a folder: snapshots replace each other, and what is shown is written down for good."""

    def __init__(self, folder: Path, name: str = "snapshot") -> None:
        self._folder = folder
        self._snapshot, self.shown = folder / f"{name}.safetensors", folder / "shown.jsonl"

    def say(self, text: str) -> None:
        pass

    def curve(self, name: str, value: float, step: int) -> None:
        raise AssertionError("a private training has no loss to show")

    def grid(self, name: str, images: Images, step: int) -> None:
        line = json.dumps([step, hashlib.sha256(images.x.numpy().tobytes()).hexdigest()])
        with self.shown.open("a") as handle:
            handle.write(line + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        pass

    def part(self, name: str) -> "DiskLog":
        return DiskLog(self._folder, name)

    def save(self, state: State) -> None:
        checkpoint.save(self._snapshot, state)

    def restored(self) -> State | None:
        return checkpoint.load(self._snapshot) if self._snapshot.is_file() else None


def train(folder: Path) -> None:
    """Train in `folder`, from its snapshot if it has one."""
    account = Account(dataset="made up", relation="zero_out", epsilon=100.0, delta=1e-5, scopes={"train": N})
    ledger = Ledger.open(folder / "ledger.json", account)
    x = torch.randint(0, 256, (N, 1, 4, 4), generator=seeding.generator(0, "kills"), dtype=torch.uint8)
    vault = Vault(Images(x, torch.zeros(N, dtype=torch.int64)), "train", ledger, PLAN, NoiseSource(), folder)
    with seeding.seeded(0, "model"):
        model = nn.Linear(16, 16)
    log = DiskLog(folder)
    snapshot = log.restored()
    spec = GradientSpec(clip=0.1, seed=0, strategy="vmap", physical=64, start=int(snapshot["step"]) if snapshot else 0)

    def preview() -> Images:
        return Images(from_unit(model.weight.view(16, 1, 4, 4) + 0.5), torch.zeros(16, dtype=torch.int64))

    fit(
        model,
        vault.gradients("dp-sgd", Loss(), model, spec),
        torch.optim.Adam(model.parameters(), lr=0.01),
        steps=STEPS,
        lr=cosine(0.01, STEPS),
        streams={},
        log=log,
        name="train",
        preview=preview,
        previews=SHOWN,
    )


def outcome(folder: Path) -> tuple[str, int]:
    """Return the ledger and the number of steps.

    Raises:
        AssertionError: when a step was shown with two contents.
    """
    log = DiskLog(folder)
    shown = [json.loads(line) for line in log.shown.read_text().splitlines()]
    contents = {step: {digest for s, digest in shown if s == step} for step, _ in shown}
    assert all(len(digests) == 1 for digests in contents.values()), f"a step was drawn twice: {contents}"
    snapshot = log.restored()
    assert snapshot is not None
    return (folder / "ledger.json").read_text(), int(snapshot["step"])


def child(work: Callable[[Path], None], folder: Path) -> int:
    """Start the work in a process of its own, and return its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work(folder)
            status = 0
        finally:
            os._exit(status)
    return pid


def killed(work: Callable[[Path], None], folder: Path, longest: float, clock: random.Random) -> int:
    """Do the work in a folder to its end with kills at random moments; return how often it was killed.

    Raises:
        AssertionError: when it ends by itself, and not well.
    """
    kills = 0
    while True:
        pid = child(work, folder)
        deadline = time.monotonic() + clock.uniform(0, longest)
        while time.monotonic() < deadline:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                assert status == 0, f"it failed by itself after {kills} kills"
                return kills
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
            kills += 1


def series(
    work: Callable[[Path], None],
    outcome: Callable[[Path], object],
    least: int,
    seed: int = 0,
    prepare: Callable[[Path], None] = lambda folder: None,
) -> tuple[int, int]:
    """Run series of killed works until `least` kills have happened; return (kills, series).

    What the work imports late must be imported before, so that kills fall on the work itself.

    Args:
        work: done in a folder; done again there, it goes on.
        outcome: what came of it there; raises where that is no good outcome.
        least: see above.
        seed: of the moments.
        prepare: puts into a fresh folder what the work needs.

    Raises:
        AssertionError: when one ends otherwise than the unbroken work.
    """
    torch.set_num_threads(1)
    clock, kills, runs = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory(prefix="dpib-kills-") as root:

        def place(name: str) -> Path:
            folder = Path(root) / name
            folder.mkdir()
            prepare(folder)
            return folder

        whole = place("whole")
        begun = time.monotonic()
        assert os.waitpid(child(work, whole), 0)[1] == 0, "the unbroken work failed"
        took = time.monotonic() - begun
        expected = outcome(whole)
        while kills < least:
            folder = place(f"run-{runs}")
            kills += killed(work, folder, took, clock)
            found = outcome(folder)
            assert found == expected, f"{found} instead of {expected}"
            shutil.rmtree(folder)
            runs += 1
    return kills, runs


def trainings(least: int) -> tuple[int, int]:
    """Run `series` of small trainings."""
    with tempfile.TemporaryDirectory(prefix="dpib-kills-") as folder:
        train(Path(folder))  # so that everything is imported
    return series(train, outcome, least)


@click.command()
@click.option("--kills", default=100)
def main(kills: int) -> None:
    """Print what happened."""
    done, runs = trainings(kills)
    print(f"{done} kills over {runs} trainings, each ending with the ledger and the {STEPS} steps of the unbroken one")


if __name__ == "__main__":
    main()
