"""How much of the published training a run did, counted in images that went through the network."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from dpib.config import layered
from dpib.data.catalog import Card, data_root, find_card
from dpib.errors import UserError
from dpib.section import parse_yaml


def fraction_of_published(method: str, dataset: str, params: Mapping[str, str]) -> float | None:
    """Return training images seen (pretraining included) over those of the method's `paper` profile.

    The size of the network is not in it: a small network that sees as many images has done less work. None
    where the recipe is not one of the package's, counts its training in other keys, or was pretrained on images
    of unknown number.
    """
    seen = images_seen({key.removeprefix("cfg."): value for key, value in params.items() if key.startswith("cfg.")})
    whole = _published(method, dataset, params.get("cfg.public", "none"))
    return None if seen is None or not whole else seen / whole


def images_seen(flat: Mapping[str, Any]) -> float | None:
    """Return how many images passed through the network in pretraining and training, each as often as it is noised.

    Args:
        flat: a configuration as dotted keys, of the tracking store (texts) or of this package (values).
    """
    n, held_out = _size(flat.get("dataset")), _number(flat.get("data.holdout"))
    trained = _passes(flat, "train", n - (held_out or 0) if n else None)
    pretrained = _pretrained(flat)
    return None if trained is None or pretrained is None else trained + pretrained


def _pretrained(flat: Mapping[str, Any]) -> float | None:
    """Return the same of pretraining: of every lesson where the method has lessons, else of the public set."""
    public, lessons = flat.get("public"), flat.get("lessons")
    size = None if str(public).lower() == "none" else _size(public)
    if lessons is None:
        return 0.0 if str(public).lower() == "none" else _passes(flat, "pretrain", size)
    total = 0.0
    for lesson in parse_yaml(lessons, "lessons") if isinstance(lessons, str) else lessons:
        own = {f"pretrain.{key}": value for key, value in (lesson.get("fit") or {}).items()}
        lengths = {"pretrain.steps", "pretrain.epochs"}
        rest = {key: value for key, value in flat.items() if not (own.keys() & lengths and key in lengths)}
        how = {**rest, **own}
        seen = _passes(how, "pretrain", _images_of(lesson, flat.get("dataset"), size))
        if seen is None:
            return None
        total += seen
    return total


def _images_of(lesson: Mapping[str, Any], dataset: object, public: int | None) -> float | None:
    """Return how many images a lesson is learnt from, None for one from outside."""
    kind, card = lesson.get("kind"), _card(dataset)
    if kind == "central":
        return None if card is None else float(lesson["samples"] * len(card.classes))
    if kind == "selected":
        return None if public is None else float(lesson["ratio"] * public)
    if kind == "frequency":
        return float(lesson["images"])
    return public if kind == "public" else None


def _passes(flat: Mapping[str, Any], section: str, n: float | None) -> float | None:
    """Return steps times batch, or epochs times the n images, times the noise draws of each."""
    keys = ("steps", "epochs", "batch", "multiplicity")
    steps, epochs, batch, draws = (_number(flat.get(f"{section}.{key}")) for key in keys)
    if batch is None:
        return None
    if steps is not None:
        return steps * batch * (draws or 1)
    return epochs * n * (draws or 1) if epochs is not None and n else None


def _number(value: object) -> float | None:
    return None if str(value).lower() == "none" else float(str(value))


def _size(dataset: object) -> int | None:
    """Return the official number of training images, or None for a folder of images."""
    card = _card(dataset)
    return None if card is None else card.sizes.train


def _card(dataset: object) -> Card | None:
    try:
        return find_card(str(dataset), data_root(None))
    except UserError:
        return None


@cache
def _published(method: str, dataset: str, public: str) -> float | None:
    try:
        config, _ = layered({"method": method, "dataset": dataset, "profile": "paper"})
    except UserError:
        return None
    return images_seen({**config.flat(), "public": public})
