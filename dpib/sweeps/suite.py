"""A suite: methods x data sets x epsilons x seeds, each cell a main run; finished cells are reused."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from pydantic import Field

from dpib.config import Config, layered
from dpib.config.compose import find_method, merge, typed
from dpib.config.reach import source_digest
from dpib.config.sense import require_pretraining
from dpib.data.catalog import Card
from dpib.errors import Faults, UserError
from dpib.pipeline import run_main
from dpib.section import Positive, Section, Text, parse_value, read_yaml, validated
from dpib.sweeps.launch import local_workers
from dpib.sweeps.spec import find_file
from dpib.sweeps.study import Progress, Study
from dpib.sweeps.worker import wait_for, work_through
from dpib.tracking import Store


class Suite(Section):
    """A matrix of main runs; `base` is laid over every cell, and the command line over that."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    methods: list[Text] = Field(min_length=1)
    datasets: list[Text] = Field(min_length=1)
    epsilons: list[float] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    base: dict[str, Any] = {}
    heartbeat: Positive = 20


@dataclass(frozen=True)
class Cell:
    """One main run of a suite, resolved."""

    config: Config
    card: Card


def read_suite(name: str, overrides: Mapping[str, str]) -> Suite:
    """Return the suite of a file, `overrides` in its base; `suite.*` replaces its own keys.

    Raises:
        UserError: one line that names the offending key.
    """
    path = find_file(name, "suites")
    tree = read_yaml(path)
    own = {key[6:]: parse_value(text, key[6:], Suite) for key, text in overrides.items() if key.startswith("suite.")}
    suite = validated(Suite, {**tree, **own}, str(path))
    methods = [_beside(path, method) for method in suite.methods]
    rest = typed({key: text for key, text in overrides.items() if not key.startswith("suite.")}, *methods)
    return suite.model_copy(update={"methods": methods, "base": merge(suite.base, rest)})


def _beside(path: Path, method: str) -> str:
    """Resolve a recipe that is named by a path against the folder of the suite's file."""
    beside = path.parent / method
    return str(beside.resolve()) if method.endswith((".yaml", ".yml")) and beside.is_file() else method


def cells(suite: Suite) -> Iterator[dict[str, Any]]:
    """Yield the command-line values of every cell: seeds vary slowest, so that a cut-off suite is a smaller one."""
    for seed in suite.seeds:
        for dataset in suite.datasets:
            for epsilon in suite.epsilons:
                for method in suite.methods:
                    where = {"method": method, "dataset": dataset, "epsilon": epsilon, "seed": seed}
                    yield merge(suite.base, where)


def resolve(suite: Suite) -> list[Cell]:
    """Return all cells, so that a misspelt one is refused before the first is run.

    Raises:
        UserError: for an unknown method, data set or key, and for cells that lack their public images.
    """
    for method in suite.methods:
        find_method(method)
    found = [Cell(*layered(values)) for values in cells(suite)]
    faults = Faults()
    for cell in found:
        with faults.caught():
            require_pretraining(cell.config, started=False)
    faults.refuse()
    return found


def launch(suite: Suite, store: Store, url: str, run_id: str, workers: int) -> tuple[Study, Progress]:
    """Run every cell, going on after failures; return the study and how it ended."""
    resolve(suite)
    memo = {
        "work": "suite",
        "code": source_digest(),
        "tracking": store.uri,
        "suite": suite.model_dump(mode="json"),
        "workers": workers,
    }
    count = len(list(cells(suite)))
    study = Study.create(url, study_name(suite, run_id), memo, [{}] * count, "maximize", suite.heartbeat)
    with local_workers(study, workers - 1):
        progress = suite_worker(study, store, 0)
    return study, progress


def study_name(suite: Suite, run_id: str) -> str:
    """Return the name by which workers join."""
    return f"suite-{suite.name}-{run_id[:12]}"


def suite_worker(study: Study, store: Store, worker: int) -> Progress:
    """Work on the cells of a suite.

    Raises:
        UserError: when this worker runs other code than the launcher.
    """
    memo, began = study.memo, time.time()
    if memo["code"] != source_digest():
        raise UserError(f"study {study.name} was begun by another version of dpib: start the workers from that one")
    all_cells = list(cells(Suite.model_validate(memo["suite"])))

    def work(found: optuna.Trial, slot: int) -> float:
        config, card = layered(all_cells[slot])
        result = wait_for(lambda: run_main(config, card, store))
        found.set_user_attr("run", result.run_id)
        found.set_user_attr("reused", result.reused)
        return float(result.metrics.get("utility/accuracy_best", 0.0))

    def tell(progress: Progress) -> None:
        print(f"suite: {estimate(progress, memo['workers'], began)}", file=sys.stderr, flush=True)

    return work_through(study, work, tell, lambda _: None)


def estimate(progress: Progress, workers: int, began: float) -> str:
    """Return how far the suite is, and about how long the rest takes, from the cells that were really run."""
    done, failed = len(progress.done), len(progress.failed)
    text = f"{done} of {progress.total} cells done" + (f", {failed} failed" if failed else "")
    spans = [
        (found.datetime_complete - found.datetime_start).total_seconds()
        for found in progress.done.values()
        if not found.user_attrs.get("reused") and found.datetime_complete and found.datetime_start
    ]
    left = progress.total - done - failed
    if not left:
        return f"{text}, in {(time.time() - began) / 60:.1f} min"
    if not spans:
        return text
    return f"{text}, about {left * sum(spans) / len(spans) / workers / 60:.1f} min left"


def listed(suite: Suite, progress: Progress) -> str:
    """Return `cells.json`: what every cell was told, which run it became, or why it failed."""
    rows = []
    for slot, values in enumerate(cells(suite)):
        done, failed = progress.done.get(slot), progress.failed.get(slot)
        run = done.user_attrs["run"] if done else None
        rows.append({**values, "run": run, "error": failed.user_attrs.get("error", "gave up") if failed else None})
    return json.dumps(rows, indent=2)
