"""The key under which a finished stage is found again: what it was told, what it was given, which code ran."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from dpib import registry
from dpib.config.schema import Config
from dpib.data.catalog import Card

# Keys that change how a stage runs but not what comes out of it.
_INDIFFERENT = (
    "profile", "note", "device", "processes", "oversubscribe", "data_root", "reuse", "resume", "method", "large_delta",
    "pretraining",
)  # fmt: skip
# Keys of any section that change nothing but speed and memory: a run that ran out of memory goes on with others.
# An audit is of the very code that they choose.
_SPEED = ("strategy", "physical", "splits")
_TASK = ("dataset", "seed", "synthesizer", "unsafe_noise_seed")
# Sections of a recipe that only generate reads: another sampler needs no other training.
_DRAWING = ("sampler",)
_PRIVACY = ("epsilon", "delta", "relation", "accountant", "data")


def stage_slice(stage: str, config: Config) -> dict[str, Any]:
    """Return the part of the configuration that decides the result of `stage`, its inputs apart."""
    tree = config.nested()
    recipe = tuple(key for key in type(config.recipe).model_fields if key not in (*_DRAWING, *_INDIFFERENT))
    keys: tuple[str, ...] = {
        "prepare": ("dataset",),
        "pretrain": ("public", "seed", "synthesizer", *(key for key in recipe if key != "train")),
        "train": (*_TASK, *_PRIVACY, "public", "public_overlap", *recipe),
        "audit": (*_TASK, *_PRIVACY, *recipe),
        "generate": ("seed", "generate", *_DRAWING),
        "evaluate": ("dataset", "public", "seed", "unsafe_noise_seed", *_PRIVACY, "eval", "yardstick", "oracle"),
        "baseline": ("dataset", "seed", "data", "eval", "oracle"),
        **dict.fromkeys(("main", "sweep", "trial"), tuple(key for key in tree if key not in _INDIFFERENT)),
    }[stage]
    dropped = () if stage == "audit" else _SPEED
    return {key: _without(tree[key], dropped) for key in keys if key in tree}


def _without(value: Any, dropped: tuple[str, ...]) -> Any:
    return {k: v for k, v in value.items() if k not in dropped} if isinstance(value, dict) else value


def fingerprint(stage: str, config: Config, card: Card | None, upstream: tuple[str, ...] = ()) -> str:
    """Return the SHA-256 of a stage's configuration, inputs (run ids or file digests), card and code."""
    content = {
        "stage": stage,
        "config": stage_slice(stage, config),
        "card": _card(stage, card),
        "upstream": list(upstream),
        "source": source_digest(),
        "outside": outside_digest(config),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _card(stage: str, card: Card | None) -> list[Any] | None:
    """Return what a stage depends on of the data set: pretraining knows only the shape of what comes later."""
    if card is None:
        return None
    return [list(card.shape), len(card.classes)] if stage == "pretrain" else [card.name, card.version]


@cache
def source_digest() -> str:
    """Return the SHA-256 of the package's own source files."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def outside_digest(config: Config) -> dict[str, str]:
    """Return the SHA-256 of every file from outside the package that the configuration names."""
    names = [value for value in config.flat().values() if isinstance(value, str)] + config.eval.metrics
    files = {path for name in names if (path := registry.outside_file(name)) is not None}
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}
