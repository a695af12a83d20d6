"""Random sequences of commands on tiny data: is any stated epsilon below what was really drawn?

    python -m benchmarks.lineage_fuzz --sequences 300

Two homes with data of their own, one tracking store or one for each home, sets that are prepared anew in another
order or under a second name, trainings from checkpoints across data sets, evaluations by run and by file, sweeps
that lose a worker, and kills by -9 at random moments. Every command runs in a process of its own. Beside the
ledger, and without reading it, every noise draw that was released is written down with the images it touched; the
epsilon of each image follows from its own draws, and is compared with what the artifact states for it.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import mlflow
import numpy as np
import torch

from benchmarks.lineage_commands import COMMANDS, evaluate, generate, sweep, train
from benchmarks.lineage_tally import Tally, watch
from benchmarks.lineage_world import NAMES, World
from dpib.errors import UserError
from dpib.privacy.ledger import LEDGER, Account
from dpib.sweeps import winner
from dpib.tracking import Store


def in_a_process(work: Callable[[], dict[str, object]], tally: Path, kill_at: int | None) -> dict[str, object] | str:
    """Return what a command made, or why it made nothing."""
    answer = tally.with_suffix(".answer")
    errors = tally.with_suffix(".stderr")
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            sys.stderr = errors.open("w")  # for the process's whole life
            watch(tally, kill_at)
            answer.write_text(json.dumps(work()))
        except UserError as error:
            answer.write_text(json.dumps(f"refused: {error}"))
        finally:
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return "killed"
    if not answer.is_file():
        return f"broke: {errors.read_text()}"
    return json.loads(answer.read_text())  # type: ignore[no-any-return]


def accounts(world: World, home: str, artifact: dict[str, object]) -> list[Account]:
    """Return what an artifact states: the account of every data set."""
    if artifact["kind"] == "gen":
        account = Account.parse(json.dumps(json.loads(str(np.load(str(artifact["file"]))["statement"]))["ledger"]))
    else:
        account = Account.parse(Store(world.store(home)).fetch(str(artifact["run"]), str(LEDGER)).read_text())
    return [account, *account.others]


def sequence(folder: Path, seed: int, blank: Path, seen: Counter[str]) -> None:
    draw = random.Random(seed)
    world = World(folder, draw, blank)
    tally = Tally(folder)
    for number in range(draw.randint(6, 12)):
        home = draw.choice(world.homes)
        if draw.random() < 0.12:
            world.prepare(home, draw.choice(NAMES), draw.choice(["a", "b", "a-", "b-"]))
            seen["prepare"] += 1
            continue
        make = draw.choice(COMMANDS)
        work = make(world, home, draw)
        if work is None:
            continue
        kill_at = draw.randint(1, 60) if draw.random() < 0.3 else None
        log = folder / f"draws-{number}"
        found = in_a_process(work, log, kill_at)
        if found == "killed" and draw.random() < 0.8:
            seen["killed"] += 1
            found = in_a_process(work, log, None)
        if isinstance(found, str):
            seen[found.split(":")[0]] += 1
            if found.startswith("broke"):
                raise SystemExit(f"sequence {seed}, command {number}: {found}")
            continue
        seen[make.__name__] += 1
        found |= {"id": str(number), "home": home, "store": world.store(home)}
        tally.add(found, log, world.artifacts)
        for account in accounts(world, home, found):
            true = tally.epsilon(found, account)
            if account.spent() < true * (1 - 1e-9):
                raise SystemExit(
                    f"sequence {seed}, command {number} ({make.__name__}): {account.dataset} states "
                    f"{account.spent():.6g}, drawn {true:.6g}"
                )
            seen["statements"] += 1
        world.artifacts.append(found)
        if "checkpoint" in found:
            chosen = {key: value for key, value in found.items() if key != "run"}
            world.artifacts.append({**chosen, "kind": "checkpoint", "file": found["checkpoint"]})


def no_plots(*_: object) -> list[str]:
    """Draw nothing: pictures take longer than everything else."""
    return []


def warm_up(folder: Path, blank: Path) -> None:
    """Do everything once in this process, so that those which it forks need not import and calibrate again."""
    draw = random.Random(0)
    world = World(folder, draw, blank)
    for make in (train, generate, evaluate, sweep):
        work = make(world, "one", draw)
        assert work is not None
        world.artifacts.append({**work(), "id": make.__name__, "home": "one", "store": world.store("one")})


@click.command()
@click.option("--sequences", default=300)
@click.option("--seed", default=0, help="The first sequence's; the others follow.")
def main(sequences: int, seed: int) -> None:
    torch.set_num_threads(1)
    winner.save_plots = no_plots
    place = Path(tempfile.mkdtemp(prefix="dpib-lineage-"))
    blank = place / "blank.db"
    mlflow.MlflowClient(f"sqlite:///{blank}").search_experiments()
    seen: Counter[str] = Counter()
    began = time.monotonic()
    (place / "warm").mkdir()
    warm_up(place / "warm", blank)
    for each in range(seed, seed + sequences):
        folder = place / str(each)
        folder.mkdir()
        sequence(folder, each, blank, seen)
        shutil.rmtree(folder)
        if (each - seed + 1) % 10 == 0:
            print(f"{each - seed + 1} sequences, {time.monotonic() - began:.0f} s: {dict(seen)}", flush=True)
    print(dict(seen))
    print(f"{sequences} sequences: {seen['statements']} statements, none below what was drawn")
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
