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
import yaml

from benchmarks.lineage_tally import Tally, watch
from dpib.chain import Start, run_generate, run_train
from dpib.config import compose
from dpib.data.catalog import find_card
from dpib.errors import UserError
from dpib.pipeline import run_evaluate
from dpib.privacy.ledger import LEDGER, Account
from dpib.section import validated
from dpib.stages.build import FINAL
from dpib.stages.generate import GEN
from dpib.sweeps import slot as slots
from dpib.sweeps import winner
from dpib.sweeps.job import Order
from dpib.sweeps.launch import run_sweep
from dpib.sweeps.spec import Sweep
from dpib.tracking import Store
from dpib.upstream import continue_from, file_digest
from tests.conftest import TINY

N = 110
EPSILONS = (2.0, 8.0, 30.0, 100.0)
NAMES = ("own", "alias")
SMALL = {
    **TINY,
    "features.dimension": "20", "train.steps": "2", "train.batch": "10", "generate.images": "30",
    "eval.classifiers.resnet": "{depth: 8, width: 8}", "eval.classifiers.wrn": "none", "eval.schedule.epochs": "1",
    "data.holdout": "20", "yardstick": "none",
    "accountant": "rdp",  # what flows where is tried here, and composing it takes milliseconds this way
}  # fmt: skip


class World:
    """The homes, stores and artifacts of one sequence."""

    def __init__(self, folder: Path, draw: random.Random, blank: Path) -> None:
        self.folder, self.draw = folder, draw
        self.shared_store = draw.random() < 0.6
        self.homes = ("one", "two")
        for name in ("one", *(() if self.shared_store else ("two",))):
            shutil.copy(blank, folder / f"{name}.db")
        self.artifacts: list[dict[str, object]] = []
        for home in self.homes:
            for name in NAMES:
                self.prepare(home, name, self.draw.choice(["a", "b"]))

    def store(self, home: str) -> str:
        return f"sqlite:///{self.folder / ('one' if self.shared_store else home)}.db"

    def prepare(self, home: str, name: str, content: str) -> None:
        """Put a set of images under a name in a home: a, b, or either of them in another order."""
        rng = np.random.default_rng({"a": 1, "b": 2}[content[0]])
        x, y = rng.integers(0, 256, (N, 28, 28), dtype=np.uint8), np.arange(N) % 3
        if content.endswith("-"):
            x, y = x[::-1], y[::-1]
        place = self.folder / f"data-{home}" / name
        place.mkdir(parents=True, exist_ok=True)
        card = find_card("digits_28", place.parent).model_dump(mode="json")
        card |= {"name": name, "classes": ["0", "1", "2"], "sizes": {"train": N, "test": N}, "holdout": 20}
        card |= {"source": {"kind": "folders"}, "config": {}, "counts": None}
        (place / "card.yaml").write_text(yaml.safe_dump(card))
        for split in ("train", "test"):
            np.savez(place / f"{split}.npz", images=x, labels=y, class_names=np.asarray(["0", "1", "2"]))

    def enter(self, home: str) -> Store:
        """Make this process one of `home`."""
        os.chdir(self.folder)
        os.environ["DPIB_HOME"] = str(self.folder / f"home-{home}")
        os.environ["DPIB_DATA"] = str(self.folder / f"data-{home}")
        mlflow.set_tracking_uri(self.store(home))
        return Store(self.store(home))


def options(name: str, epsilon: float, **more: str) -> dict[str, str]:
    return {**SMALL, "dataset": name, "epsilon": str(epsilon), **more}


def train(world: World, home: str, draw: random.Random) -> Callable[[], dict[str, object]]:
    name, epsilon = draw.choice(NAMES), draw.choice(EPSILONS)
    starts = [a for a in world.artifacts if a["kind"] == "checkpoint"]
    start = draw.choice(starts) if starts and draw.random() < 0.6 else None

    def work() -> dict[str, object]:
        store = world.enter(home)
        config, card = compose(options(name, epsilon, reuse=draw.choice(["true", "false"])))
        begin = None if start is None else Start(file=Path(str(start["file"])))
        run = run_train(config, card, store, begin).run_id
        return {"kind": "checkpoint", "run": run, "file": str(store.fetch(run, str(FINAL))), "parent": start}

    return work


def generate(world: World, home: str, draw: random.Random) -> Callable[[], dict[str, object]] | None:
    known = [a for a in world.artifacts if a["kind"] == "checkpoint" and "run" in a and a["store"] == world.store(home)]
    if not known:
        return None
    source = draw.choice(known)

    def work() -> dict[str, object]:
        store = world.enter(home)
        config, card, run = continue_from(str(source["run"]), "train", store, {})
        made = run_generate(config, card, store, run).run_id
        return {"kind": "gen", "run": made, "file": str(store.fetch(made, str(GEN))), "parent": source}

    return work


def evaluate(world: World, home: str, draw: random.Random) -> Callable[[], dict[str, object]] | None:
    known = [a for a in world.artifacts if a["kind"] == "gen"]
    if not known:
        return None
    gen, by_file, epochs = draw.choice(known), draw.random() < 0.5, draw.choice(["1", "2"])

    def work() -> dict[str, object]:
        store = world.enter(home)
        file = Path(str(gen["file"]))
        if by_file or gen["store"] != world.store(home) or gen.get("run") is None:
            copied = world.folder / f"copy-{draw.randrange(10**9)}.npz"
            shutil.copy(file, copied)
            name = json.loads(str(np.load(file)["statement"]))["ledger"]["dataset"]
            config, card = compose(options(name, 2.0, **{"eval.schedule.epochs": epochs}))
            run = run_evaluate(config, card, store, copied, file_digest(copied)).run_id
        else:
            overrides = {"eval.schedule.epochs": epochs}
            config, card, source = continue_from(str(gen["run"]), "generate", store, overrides)
            run = run_evaluate(config, card, store, store.fetch(source, str(GEN)), source).run_id
        return {"kind": "judged", "run": run, "parent": gen}

    return work


def sweep(world: World, home: str, draw: random.Random) -> Callable[[], dict[str, object]] | None:
    gens = [a for a in world.artifacts if a["kind"] == "gen" and a.get("run") and a["store"] == world.store(home)]
    gen = draw.choice(gens) if gens and draw.random() < 0.5 else None
    moves, other = draw.random() < 0.5, next(h for h in world.homes if h != home)
    name, mode = draw.choice(NAMES), "compose" if gen is None else draw.choice(["compose", "one_shot"])
    space = {"train.lr" if gen is None else "eval.schedule.lr": {"low": 0.001, "high": 0.02}}

    def work() -> dict[str, object]:
        store = world.enter(home)
        if gen is None:
            config, card = compose(options(name, 2.0))
        else:
            config, card, _ = continue_from(str(gen["run"]), "generate", store, {})
        kind = "synthesizer" if gen is None else "classifier"
        keys = {"name": "s", "kind": kind, "mode": mode, "trials": 2, "space": space, "heartbeat": 1}
        spec = validated(Sweep, {**keys, "epsilon_total": 40.0, "score": {"sigma": 20.0}}, "sweep")
        order = Order(spec, config, card, f"sqlite:///{world.folder / 'studies.db'}", 1, gen and str(gen["run"]))
        if moves:
            _lose_a_worker(world, other)
        run = run_sweep(order, store).run_id
        found: dict[str, object] = {"kind": "sweep", "run": run, "parent": gen}
        if gen is None:
            found |= {"kind": "gen", "file": str(store.fetch(run, str(GEN))), "run": None, "sweep": run}
            found["checkpoint"] = str(store.fetch(run, str(FINAL)))
        return found

    return work


def _lose_a_worker(world: World, other: str) -> None:
    """Let the first trial die after its training, and be begun again on the other machine."""
    original, died = slots._classify, []

    def classify(*arguments: object) -> object:
        if not died:
            died.append(True)
            os.environ["DPIB_HOME"] = str(world.folder / f"home-{other}")
            raise ConnectionError("the worker is gone")
        return original(*arguments)  # type: ignore[arg-type]

    slots._classify = classify  # type: ignore[assignment]


COMMANDS = (train, train, train, generate, generate, evaluate, evaluate, evaluate, sweep)


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
