"""Every kind of stage in one place: what decides its result, and how it is run and kept."""

from dataclasses import dataclass
from typing import Literal

_TASK = ("dataset", "seed", "synthesizer", "unsafe_noise_seed")
_PRIVACY = ("epsilon", "delta", "relation", "accountant", "data")


@dataclass(frozen=True)
class Kind:
    """A kind of stage.

    Args:
        name: as tags and entry points have it.
        keys: of the configuration that decide the result, those of the recipe apart; none of them: all keys do.
        recipe: whether the keys of the recipe that the synthesizer says this stage `reads` decide it too; `all` of
            them where it goes through several stages.
        card: what of the data set decides the result: its name and version, or its shape alone.
        source: the module whose code, and what that reaches, decides the result.
        before: the stages whose keys nobody may change who goes on from a run of this one.
        private: whether its results keep to epsilon.
        private_snapshot: its snapshots may tell of sensitive images, and stay off the store.
        parallel: all processes do it together, and it has no run where that is not rank 0.
        any_dataset: a finished run serves under any data set.
        discreet: its errors may name sensitive files, and stay off the store.
        method: whether its run is one of a method.
    """

    name: str
    keys: tuple[str, ...] = ()
    recipe: Literal["none", "own", "all"] = "none"
    card: Literal["name", "shape", "size"] = "name"
    source: str = ""
    before: tuple[str, ...] = ()
    private: bool = True
    private_snapshot: bool = False
    parallel: bool = False
    any_dataset: bool = False
    discreet: bool = False
    method: bool = True


_ALL = (
    Kind("prepare", ("dataset",), source="dpib.data.prepare", discreet=True, method=False),
    Kind("part", ("seed", "precision"), card="size", source="dpib.stages.part", parallel=True, any_dataset=True),
    Kind(
        "query",
        (*_TASK, "delta", "relation", "data", "public_overlap", "parts"),
        "own",
        source="dpib.stages.query",
        before=("query",),
        parallel=True,
    ),
    Kind(
        "pretrain",
        ("public", "seed", "synthesizer", "parts", "precision"),
        "own",
        card="shape",
        source="dpib.stages.pretrain",
        before=("query", "pretrain"),
        parallel=True,
        any_dataset=True,
    ),
    Kind(
        "train",
        (*_TASK, *_PRIVACY, "precision", "public", "public_overlap"),
        "own",
        source="dpib.stages.train",
        before=("query", "pretrain", "train"),
        parallel=True,
    ),
    Kind(
        "generate",
        ("seed", "generate"),
        "own",
        source="dpib.stages.generate",
        before=("query", "pretrain", "train", "generate"),
        parallel=True,
    ),
    Kind(
        "evaluate",
        ("dataset", "public", "seed", "unsafe_noise_seed", "precision", *_PRIVACY, "eval", "yardstick", "oracle"),
        source="dpib.stages.evaluate",
        private_snapshot=True,
    ),
    Kind(
        "baseline",
        ("dataset", "seed", "precision", "data", "eval", "oracle"),
        source="dpib.stages.baseline",
        private=False,
        private_snapshot=True,
        method=False,
    ),
    Kind("audit", (*_TASK, *_PRIVACY, "precision"), "all", source="dpib.stages.audit"),
    Kind("main", recipe="all", source="dpib.pipeline", parallel=True),
    Kind("sweep", recipe="all", source="dpib.sweeps.launch", private_snapshot=True),
    Kind("trial", recipe="all", source="dpib.sweeps.slot", private_snapshot=True),
)
KINDS = {kind.name: kind for kind in _ALL}
"""The kinds of stages by their names."""
