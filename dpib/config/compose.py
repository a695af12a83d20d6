"""Compose the configuration: defaults <- method <- data set <- tuned/<method>/<data set> <- command line.

A method may stand on a base that it shares with others: `bases/<base>.yaml` lies below its own file, and
`tuned/<base>/<data set>` below its own tuned file. Each file may hold `profiles:` and `by_epsilon:`
blocks, which are laid over the rest of that file.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpib import registry
from dpib.config.schema import Config, Data
from dpib.data.catalog import Card, data_root, find_card
from dpib.errors import UserError, nearest
from dpib.section import Section, Text, dotted_keys, parse_yaml, read_yaml, validated

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PROFILES = ("smoke", "fast", "paper")


class Method(Section):
    """What a method file says about itself; every other key in it is configuration."""

    name: str
    aliases: list[Text] = []
    citation: str
    synthesizer: str
    base: str | None = None


def compose(overrides: Mapping[str, str]) -> tuple[Config, Card]:
    """Return the configuration for dotted command-line `overrides`, and the card of its data set.

    Raises:
        UserError: one line, for an unknown method, data set or key, or a value of the wrong type.
    """
    return layered(nest({key: parse_yaml(text, f"{key}={text}") for key, text in overrides.items()}))


def from_text(text: str, overrides: Mapping[str, str], source: str) -> tuple[Config, Card]:
    """Return an earlier run's resolved configuration (YAML `text`) with `overrides` laid over it."""
    tree = parse_yaml(text, source)
    command = nest({key: parse_yaml(value, f"{key}={value}") for key, value in overrides.items()})
    if command.get("dataset", tree["dataset"]) != tree["dataset"]:
        # These were filled in from the other data set.
        tree = {**tree, "delta": None, "data": {}}
    merged = merge(tree, command)
    card = find_card(merged["dataset"], data_root(merged.get("data_root")))
    return _resolved(_build(merged), card), card


def overlaid(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a resolved configuration with dotted keys changed to values of the right type.

    Raises:
        UserError: one line, for an unknown key or a value of the wrong type.
    """
    return _build(merge(config.nested(), nest(changes)))


def layered(command: Mapping[str, Any]) -> tuple[Config, Card]:
    """Return the configuration for a nested mapping of command-line values, and its card."""
    defaults = read_yaml(CONFIGS / "defaults.yaml")
    chosen = merge(defaults, command)
    profile, epsilon = chosen["profile"], chosen["epsilon"]
    if profile not in PROFILES:
        raise UserError(f"unknown profile {profile!r}{nearest(str(profile), PROFILES)}; known: {', '.join(PROFILES)}")
    path = find_method(str(chosen["method"]))
    recipe = read_yaml(path)
    head = validated(Method, {k: v for k, v in recipe.items() if k in Method.model_fields}, str(path))
    card = find_card(str(chosen["dataset"]), data_root(chosen.get("data_root")))
    layers = [
        defaults,
        read_yaml(CONFIGS / "bases" / f"{head.base}.yaml") if head.base else {},
        {k: v for k, v in recipe.items() if k not in Method.model_fields},
        card.config,
        *_tuned((head.base, head.name), card.name),
    ]
    tree: dict[str, Any] = {"synthesizer": _beside(path, head.synthesizer)}
    for layer in layers:
        tree = merge(tree, _applied(layer, profile, epsilon))
    # A data set named by the path of its card keeps that path: later stages must find it again.
    dataset = str(chosen["dataset"]) if str(chosen["dataset"]).endswith((".yaml", ".yml")) else card.name
    config = _build(merge(tree, {**command, "method": head.name, "dataset": dataset}))
    return _resolved(config, card), card


def _tuned(names: Sequence[str | None], dataset: str) -> list[dict[str, Any]]:
    """Return what differs on this data set, for those of `names` that have a file for it."""
    files = [CONFIGS / "tuned" / name / f"{dataset}.yaml" for name in names if name]
    return [read_yaml(file) for file in files if file.is_file()]


def _resolved(config: Config, card: Card) -> Config:
    """Fill in what follows from the data set: the held-out part, and delta = 1/(n ln n)."""
    holdout = config.data.holdout
    if holdout is None:
        holdout = card.holdout if config.eval.mode == "val" else 0
    n = card.sizes.train - holdout
    if n < 2:
        raise UserError(f"data.holdout={holdout} leaves {n} of {card.sizes.train} training images")
    delta = config.delta if config.delta is not None else 1 / (n * math.log(n))
    return config.model_copy(update={"data": Data(holdout=holdout), "delta": delta})


def find_method(name: str) -> Path:
    """Return the recipe file of a method, given by name, alias (any case) or path.

    Raises:
        UserError: when there is none; names the nearest.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise UserError(f"method file {name} does not exist")
        return Path(name).resolve()
    names: dict[str, Path] = {}
    for path in sorted((CONFIGS / "methods").glob("*.yaml")):
        head = read_yaml(path)
        for alias in (path.stem, *head.get("aliases", ())):
            names[str(alias).lower()] = path
    if name.lower() not in names:
        known = ", ".join(sorted({path.stem for path in names.values()}))
        raise UserError(f"unknown method {name!r}{nearest(name.lower(), names)}; known: {known}")
    return names[name.lower()]


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with `above` laid over it, section by section."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into nested mappings.

    Raises:
        UserError: when one key is both a value and a section.
    """
    tree: dict[str, Any] = {}
    for dotted, value in flat.items():
        *path, last = dotted.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"{dotted}: {part!r} was already given a value of its own")
        node[last] = value
    return tree


def _applied(layer: Mapping[str, Any], profile: str, epsilon: Any) -> dict[str, Any]:
    """Lay a file's blocks for this profile and the nearest published epsilon over the rest of it."""
    tree = {k: v for k, v in layer.items() if k not in ("profiles", "by_epsilon")}
    blocks = dict(layer.get("profiles", {}))
    unknown = set(blocks) - set(PROFILES)
    if unknown:
        raise UserError(f"profiles: unknown profile {unknown.pop()!r}; known: {', '.join(PROFILES)}")
    if profile in blocks:
        tree = merge(tree, _applied(blocks[profile], profile, epsilon))
    published = layer.get("by_epsilon", {})
    if published and isinstance(epsilon, int | float) and epsilon > 0:
        tree = merge(tree, published[nearest_epsilon(published, epsilon)])
    return tree


def nearest_epsilon(published: Mapping[float, Any], epsilon: float) -> float:
    """Return the published epsilon closest to `epsilon` on the logarithmic scale."""
    return min(published, key=lambda known: abs(math.log(known / epsilon)))


def _beside(method_file: Path, synthesizer: str) -> str:
    """Resolve a synthesizer file against the folder of the method file that names it."""
    file = registry.outside_file(synthesizer)
    return str(method_file.parent / synthesizer) if file is not None and not file.is_absolute() else synthesizer


def _build(tree: Mapping[str, Any]) -> Config:
    """Validate a merged mapping: the common keys by `Config`, the rest by the synthesizer's `Settings`."""
    settings: type[Section] = registry.load("synthesizer", str(tree["synthesizer"])).Settings
    common = [key for key in dotted_keys(Config) if key != "recipe" and not key.startswith("recipe.")]
    known = [*common, *dotted_keys(settings)]
    rest = {key: value for key, value in tree.items() if key not in Config.model_fields}
    recipe = validated(settings, rest, "configuration", known)
    config = validated(
        Config,
        {**{k: v for k, v in tree.items() if k in Config.model_fields}, "recipe": recipe},
        "configuration",
        known,
    )
    for metric in config.eval.metrics:
        registry.load("metric", metric)  # a misspelt metric is refused now, not after the training
    return config
