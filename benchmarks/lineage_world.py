"""The homes, stores and image sets of one sequence of commands."""

import os
import random
import shutil
from pathlib import Path

import mlflow
import numpy as np
import yaml

from dpib.data.catalog import find_card
from dpib.tracking import Store
from tests.conftest import TINY

N = 110
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
