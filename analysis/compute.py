"""How much of the published training a run did, counted in images that went through the network."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from dpib.config import layered
from dpib.errors import UserError


def fraction_of_published(method: str, dataset: str, params: Mapping[str, str]) -> float | None:
    """Return training images seen (pretraining included) over those of the method's `paper` profile.

    The size of the network is not in it: a small network that sees as many images has done less work. None
    where the recipe is not one of the package's, or counts its training in other keys.
    """
    seen = images_seen({key.removeprefix("cfg."): value for key, value in params.items() if key.startswith("cfg.")})
    whole = _published(method, dataset, params.get("cfg.public", "none"))
    return None if seen is None or not whole else seen / whole


def images_seen(flat: Mapping[str, Any]) -> float | None:
    """Return steps times batch over pretraining and training, each record as often as it is drawn with noise."""
    trained = _product(flat, "train")
    if trained is None:
        return None
    pretrained = _product(flat, "pretrain") if str(flat.get("public", "none")) not in ("none", "None") else 0.0
    return trained + (pretrained or 0.0)


def _product(flat: Mapping[str, Any], section: str) -> float | None:
    steps, batch = flat.get(f"{section}.steps"), flat.get(f"{section}.batch")
    if steps is None or batch is None or "none" in (str(steps).lower(), str(batch).lower()):
        return None
    return float(steps) * float(batch) * float(flat.get(f"{section}.noise_multiplicity") or 1)


@cache
def _published(method: str, dataset: str, public: str) -> float | None:
    try:
        config, _ = layered({"method": method, "dataset": dataset, "profile": "paper"})
    except UserError:
        return None
    return images_seen({**config.flat(), "public": public})
