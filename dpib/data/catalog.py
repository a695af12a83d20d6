"""Data set cards: what a data set is, where it comes from, and how it is cited. One YAML file each."""

import os
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from dpib.errors import UserError, nearest
from dpib.paths import written_path
from dpib.section import Positive, Section, Text, read_yaml, validated

_NAME = "(?![Nn]one$)[A-Za-z0-9][A-Za-z0-9_-]{0,63}"  # a folder below the data root, and nothing above it
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


class Counts(Section):
    """How many images each class has, where that is public."""

    train: list[int]
    test: list[int] = []


class Checksums(Section):
    """`store.checksum` of each split: the same for every order of the same records."""

    train: str
    test: str


class Card(Section):
    """What is publicly known about a data set."""

    name: Text
    title: str
    version: Positive = 1
    shape: tuple[int, int, int] = Field(strict=False, description="channels, height, width")
    classes: list[Text] = Field(min_length=1)
    sizes: Sizes
    counts: Counts | None = None
    holdout: int = Field(default=0, ge=0)
    source: Source
    checksums: Checksums | None = None
    citation: str
    licence: str
    homepage: str
    config: dict[str, Any] = {}
    _file: Path | None = PrivateAttr(default=None)

    @property
    def called(self) -> str:
        """What a command calls the data set: its name, or the path of a card from outside."""
        return self.name if self._file is None else str(self._file)

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        require_name(self.name)
        c, h, w = self.shape
        if c not in (1, 3) or not 4 <= h == w <= 512:
            raise ValueError(f"shape must be [1 or 3, side, side] with a side of 4 to 512, not {list(self.shape)}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same name")
        if self.holdout >= self.sizes.train:
            raise ValueError(f"a holdout of {self.holdout} leaves nothing of {self.sizes.train} images")
        for split in ("train", "test") if self.counts is not None else ():
            counts, n = getattr(self.counts, split), getattr(self.sizes, split)
            if sum(counts) != n or len(counts) not in (0, len(self.classes)):
                raise ValueError(f"counts.{split} must be {len(self.classes)} numbers with the sum {n}")
        return self

    def commonest(self, split: str) -> tuple[str, float] | None:
        """Return the class with most images of a split and its share in percent, where the counts are public."""
        counts: list[int] = getattr(self.counts, split, [])
        if not counts:
            return None
        most = max(range(len(counts)), key=lambda i: counts[i])
        return self.classes[most], 100 * counts[most] / sum(counts)


def data_root(configured: str | None) -> Path:
    """Return the folder of prepared data: the configured one, else DPIB_DATA, else DPIB_HOME/data.

    Raises:
        UserError: when it cannot be a folder because a file is in the way.
    """
    chosen = configured or os.environ.get("DPIB_DATA")
    root = written_path(chosen) if chosen else home() / "data"
    file = next((path for path in (root, *root.parents) if os.path.lexists(path) and not path.is_dir()), None)
    if file is not None:
        raise UserError(f"the data root {root} cannot be a folder, {file} is none: give -P data_root=<folder>")
    return root


def require_name(name: str) -> None:
    """Refuse what cannot name a data set.

    Raises:
        ValueError: saying what a name is.
    """
    if not re.fullmatch(_NAME, name):
        shown = name if len(name) <= 40 else f"{name[:40]}..."
        raise ValueError(
            f"{shown!r} is no name of a data set: up to 64 letters, digits, _ and - (none means none), or a card's path"
        )


def home() -> Path:
    """Return the folder for data, caches and unfinished work: DPIB_HOME, else ~/.dpib."""
    return written_path(os.environ.get("DPIB_HOME") or "~/.dpib")


def find_card(name: str, root: Path) -> Card:
    """Return the card of a data set: a shipped one, a prepared one of the user's own, or a YAML path.

    Raises:
        UserError: when there is none; names the nearest.
    """
    path = card_file(name, root)
    if path is not None:
        card = read_card(path)
        if name.endswith((".yaml", ".yml")):
            card._file = path.absolute()
        return card
    known = sorted({p.stem for p in CARDS.glob("*.yaml")} | {p.parent.name for p in root.glob("*/card.yaml")})
    raise UserError(
        f"unknown data set {name!r}{nearest(name, known)}; known: {', '.join(known)}. Your own images: "
        f"mlflow run . --env-manager local -e prepare -P dataset={name} -P source=<folder with one folder per class>"
    )


def card_file(name: str, root: Path) -> Path | None:
    """Return the file of a data set's card: a path itself, a shipped one, or one below the data root; or None.

    Raises:
        UserError: when `name` can be neither a name nor the path of a card.
    """
    if name.endswith((".yaml", ".yml")):
        return written_path(name)
    try:
        require_name(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    return next((path for path in (CARDS / f"{name}.yaml", root / name / "card.yaml") if path.is_file()), None)


def read_card(path: Path) -> Card:
    """Read and check one card.

    Raises:
        UserError: naming the first wrong key.
    """
    return validated(Card, read_yaml(path), str(path))
