"""The commands of a sequence: each is drawn now, and done later in a process of its own."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.lineage_world import NAMES, World, options
from dpib.chain import Start, run_generate, run_train
from dpib.config import compose
from dpib.pipeline import run_evaluate
from dpib.section import validated
from dpib.stages.build import FINAL
from dpib.stages.generate import GEN
from dpib.sweeps import slot as slots
from dpib.sweeps.job import Order
from dpib.sweeps.launch import run_sweep
from dpib.sweeps.spec import Sweep
from dpib.upstream import continue_from, file_digest

EPSILONS = (2.0, 8.0, 30.0, 100.0)


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
