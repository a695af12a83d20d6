"""Data set cards: what a data set is, where it comes from, and how it is cited. One YAML file each."""

import os
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dpib.errors import UserError, nearest
from dpib.section import Positive, Section, Text, read_yaml, validated

_NAME = "[A-Za-z0-9][A-Za-z0-9_-]*"  # it becomes a folder below the data root, and nothing above it
CARDS = Path(__file__).resolve().parents[2] / "configs" / "datasets"


class Archive(Section):
    """One official file."""

    name: str
    url: str
    md5: str = Field(pattern=r"^[0-9a-f]{32}$")


# Kinds that need no files from elsewhere.
BUNDLED = ("digits", "glyphs")


class Source(Section):
    """How the official archives are read. Kinds: see `dpib.data.sources`."""

    kind: Literal["idx", "emnist", "cifar", "folders", "digits", "glyphs"]
    archives: list[Archive] = []
    invert: bool = Field(default=False, description="turn black ink on white into white on black")


class Sizes(Section):
    """The official numbers of images."""

    train: Positive
    test: int = Field(ge=0)


class Checksums(Section):
    """`store.checksum` of each split: the same for every order of the same records."""

    train: str
    test: str


class Card(Section):
    """What is publicly known about a data set."""

    name: str = Field(pattern=f"^{_NAME}$")
    title: str
    version: Positive = 1
    shape: tuple[int, int, int] = Field(strict=False, description="channels, height, width")
    classes: list[Text] = Field(min_length=1)
    sizes: Sizes
    holdout: int = Field(default=0, ge=0)
    source: Source
    checksums: Checksums | None = None
    citation: str
    licence: str
    homepage: str
    config: dict[str, Any] = {}

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        c, h, w = self.shape
        if c not in (1, 3) or not 4 <= h == w <= 512:
            raise ValueError(f"shape must be [1 or 3, side, side] with a side of 4 to 512, not {list(self.shape)}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same name")
        if self.holdout >= self.sizes.train:
            raise ValueError(f"a holdout of {self.holdout} leaves nothing of {self.sizes.train} images")
        return self


def data_root(configured: str | None) -> Path:
    """Return the folder of prepared data: the configured one, else DPIB_DATA, else DPIB_HOME/data."""
    chosen = configured or os.environ.get("DPIB_DATA")
    return Path(chosen).expanduser() if chosen else home() / "data"


def home() -> Path:
    """Return the folder for data, caches and unfinished work: DPIB_HOME, else ~/.dpib."""
    return Path(os.environ.get("DPIB_HOME") or "~/.dpib").expanduser()


def find_card(name: str, root: Path) -> Card:
    """Return the card of a data set: a shipped one, a prepared one of the user's own, or a YAML path.

    Raises:
        UserError: when there is none; names the nearest.
    """
    if name.endswith((".yaml", ".yml")):
        return read_card(Path(name))
    if not re.fullmatch(_NAME, name):
        raise UserError(f"{name!r} is no name of a data set: letters, digits, _ and - only, or the path of a card")
    for path in (CARDS / f"{name}.yaml", root / name / "card.yaml"):
        if path.is_file():
            return read_card(path)
    known = sorted({p.stem for p in CARDS.glob("*.yaml")} | {p.parent.name for p in root.glob("*/card.yaml")})
    raise UserError(
        f"unknown data set {name!r}{nearest(name, known)}; known: {', '.join(known)}. Your own images: "
        f"mlflow run . --env-manager local -e prepare -P dataset={name} -P source=<folder with one folder per class>"
    )


def read_card(path: Path) -> Card:
    """Read and check one card.

    Raises:
        UserError: naming the first wrong key.
    """
    return validated(Card, read_yaml(path), str(path))
