"""The key under which a finished stage is found again: what it was told, what it was given, which code ran."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from dpib import registry
from dpib.config.kinds import KINDS, Kind
from dpib.config.reach import reach_digest
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


def stage_slice(stage: str, config: Config, part: str | None = None) -> dict[str, Any]:
    """Return what of the configuration decides the result of `stage`, its inputs apart.

    Args:
        stage: its kind.
        config: the whole.
        part: which part a stage of kind `part` fits.
    """
    kind, tree = KINDS[stage], config.nested()
    own = list(config.recipe.model_dump())
    keys = kind.keys or tuple(key for key in tree if key not in own)
    found = {key: tree[key] for key in keys if key not in _INDIFFERENT}
    if part is not None:
        found["part"] = tree["parts"][part]
    reads = own if kind.recipe == "all" else _reads(kind, config)
    for path in reads:
        if path.startswith("-"):
            found = _without(found, path[1:].split("."))
        elif path not in _INDIFFERENT:
            found[path] = tree[path]
    return found if stage == "audit" else {key: _faster(value) for key, value in found.items()}


def _reads(kind: Kind, config: Config) -> tuple[str, ...]:
    if kind.recipe != "own":
        return ()
    return tuple(registry.load("synthesizer", config.synthesizer).reads.get(kind.name, ()))


def _without(value: Any, path: list[str]) -> Any:
    """Return a tree without what lies at `path`, in every element of the lists on the way."""
    if isinstance(value, list):
        return [_without(each, path) for each in value]
    if not isinstance(value, dict):
        return value
    first, rest = path[0], path[1:]
    kept = {key: each for key, each in value.items() if key != first or rest}
    return {key: _without(each, rest) if key == first else each for key, each in kept.items()}


def _faster(value: Any) -> Any:
    return {k: v for k, v in value.items() if k not in _SPEED} if isinstance(value, dict) else value


def fingerprint(
    stage: str, config: Config, card: Card | None, upstream: tuple[str, ...] = (), part: str | None = None
) -> str:
    """Return the SHA-256 of a stage's configuration, inputs (run ids or digests), card and code."""
    told = stage_slice(stage, config, part)
    words = set(_words(told))
    content = {
        "stage": stage,
        "config": told,
        "card": _card(KINDS[stage], card),
        "upstream": list(upstream),
        "source": reach_digest({KINDS[stage].source, *registry.modules(words)}),
        "outside": _outside(words),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _card(kind: Kind, card: Card | None) -> list[Any] | None:
    if card is None:
        return None
    told: dict[str, list[Any]] = {
        "name": [card.name, card.version],
        "shape": [list(card.shape), len(card.classes)],
        "size": [list(card.shape)],
    }
    return told[kind.card]


def _words(value: Any) -> Iterator[str]:
    """Yield every text in a tree."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _words(each)
    elif isinstance(value, str):
        yield value


def _outside(words: set[str]) -> dict[str, str]:
    """Return the SHA-256 of every file from outside the package that is named."""
    files = {path for word in words if (path := registry.outside_file(word)) is not None}
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}
