"""The fidelity half of evaluation: one feature pass over synthetic and real images, then every metric."""

import math
import re
from collections.abc import Container
from typing import Any
from urllib.error import URLError

import torch

from dpib import registry, seeding
from dpib.config import Config
from dpib.data.catalog import home
from dpib.errors import is_full
from dpib.images import Images
from dpib.metrics.features import (
    Embedding,
    Features,
    extract,
    inception_embedding,
    random_embedding,
    weights_file,
)
from dpib.metrics.fidelity import Unavailable
from dpib.privacy.ledger import Ledger
from dpib.sensitive import Sensitive
from dpib.stages.context import Context
from dpib.synthesizer import Log


def fidelity(
    context: Context, sensitive: Sensitive, images: Images, ledger: Ledger, embedding: Embedding
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the fidelity metrics with their sample counts, and for the report what is absent and why.

    Real features are cached in DPIB_HOME on this machine; synthetic ones in the private folder, for
    resumption.
    """
    config, settings, log = context.config, context.config.eval, context.log
    chosen = subset(images, settings.max_synthetic, config.seed)
    synthetic = extract(embedding, chosen.x, settings.batch, context.private / "features", "synthetic images")
    metrics = {f"{embedding.prefix}/n_synthetic": float(len(synthetic))}
    absent: dict[str, str] = {}
    for reference in settings.references:
        suffix = "" if reference == "train" else "_test"

        def embed(real: Images, reference: str = reference) -> Features:
            part = subset(real, settings.max_real, config.seed)
            cache = home() / "cache" / "features"
            return extract(embedding, part.x, settings.batch, cache, f"real {reference} images")

        what = f"distance between synthetic and real {reference} images ({', '.join(settings.metrics)})"
        real = sensitive.yardstick(reference, ledger).measure("fidelity", what, embed)
        metrics[f"{embedding.prefix}/n_real{suffix}"] = float(len(real))
        for name in settings.metrics:
            try:
                values = registry.load("metric", name)(synthetic, real)
                metrics |= recordable(values, embedding.prefix, suffix, metrics)
            except Unavailable as reason:
                absent[name + suffix] = str(reason)
                log.say(f"evaluate: {name}{suffix} is absent: {reason}")
    return metrics, {
        "absent": absent,
        "embedding": {"prefix": embedding.prefix, "sha256": embedding.identity},
    }


def recordable(values: Any, prefix: str, suffix: str, taken: Container[str]) -> dict[str, float]:
    """Return what a metric returned under the names that it is tracked by.

    Raises:
        Unavailable: when it returned anything but finite numbers under usable names that are not `taken`.
    """
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise Unavailable(f"it returns a {type(values).__name__}, not numbers by name")
    found = {}
    for name, value in values.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise Unavailable(f"its {name!r} is a {type(value).__name__}, not a number") from None
        if not math.isfinite(number):
            raise Unavailable(f"its {name!r} is {number}")
        key = f"{prefix}/{name}{suffix}"
        if not re.fullmatch(r"[\w.\- ]{1,100}", name) or set(name) <= {"."}:
            raise Unavailable(f"its name {name!r} cannot be tracked: use letters, digits, _, -, . and spaces")
        if key in taken:
            raise Unavailable(f"its name {name!r} belongs to another metric: rename it")
        found[key] = number
    return found


def require_weights(config: Config) -> None:
    """Refuse a named file of Inception weights that is not there, before hours of work rather than after.

    Raises:
        UserError: naming the file.
    """
    weights = config.eval.inception_weights
    if config.yardstick == "all" and config.eval.embedding == "inception" and weights is not None:
        weights_file(weights)


def choose_embedding(config: Config, device: torch.device, log: Log) -> Embedding:
    """Return the configured embedding; the random one, with a warning, where Inception cannot be had."""
    if config.eval.embedding == "random":
        return random_embedding(device)
    weights = config.eval.inception_weights
    try:
        return inception_embedding(weights_file(weights) if weights else None, device)
    except (URLError, OSError) as error:
        if is_full(error):  # then nothing else would fit either, and what stands in were no cure
            raise
        log.say(
            f"evaluate: warning: no Inception weights ({error}): FID and the like are NOT computed. A random "
            "embedding stands in under the names fidelity_random/*; give -P eval.inception_weights=<file>"
        )
        return random_embedding(device)


def subset(images: Images, most: int | None, seed: int) -> Images:
    """Return at most `most` images, drawn by the seed."""
    if most is None or len(images) <= most:
        return images
    order = torch.randperm(len(images), generator=seeding.generator(seed, "fidelity", len(images)))
    return images.take(order[:most].sort().values)
