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
from dpib.config.overrides import nest, parsed
from dpib.config.schema import Config, Data
from dpib.config.sense import LARGE_DELTA, require_sense
from dpib.data.catalog import Card, data_root, find_card
from dpib.errors import Faults, UserError, absence, nearest
from dpib.paths import written_path
from dpib.section import Section, Text, checked, clipped, dotted_keys, parse_yaml, read_yaml, validated

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DEFAULTS = CONFIGS / "defaults.yaml"
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
        UserError: one line with all that is wrong: an unknown method, data set or key, a value of the wrong type.
    """
    return layered(typed(overrides))


def typed(overrides: Mapping[str, str], *methods: str) -> dict[str, Any]:
    """Return dotted command-line `overrides` as a nested mapping of values, as the keys of their method are declared.

    Args:
        overrides: texts; that of a key which holds a text is taken literally.
        methods: the methods whose keys they may be where they name none; without any the default one.

    Raises:
        UserError: one line with every text that does not parse.
    """
    if "synthesizer" in overrides:
        return parsed(overrides, Config, _settings(overrides["synthesizer"]))
    names = [overrides["method"]] if "method" in overrides else methods or [str(read_yaml(DEFAULTS)["method"])]
    return parsed(overrides, Config, *(_settings_of(name) for name in names))


def _settings_of(method: str) -> type[Section]:
    """Return what declares a method's own keys; what is wrong with the method is for `layered` to say."""
    try:
        path, _, head = _recipe(method)
    except UserError:
        return Section
    return _settings(_beside(path, head.synthesizer))


def _settings(synthesizer: str) -> type[Section]:
    try:
        return registry.settings(synthesizer)
    except UserError:
        return Section


def from_text(text: str, overrides: Mapping[str, str], source: str) -> tuple[Config, Card]:
    """Return an earlier run's resolved configuration (YAML `text`) with `overrides` laid over it."""
    tree = parse_yaml(text, source)
    command = parsed(overrides, Config, _settings(overrides.get("synthesizer", tree["synthesizer"])))
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
    """Return the configuration for a nested mapping of command-line values, and its card.

    Raises:
        UserError: one line with all that is wrong, as far as it can be told apart.
    """
    defaults = read_yaml(DEFAULTS)
    chosen = merge(defaults, command)
    profile, epsilon = chosen["profile"], chosen["epsilon"]
    faults = Faults()
    if profile not in PROFILES:
        known = ", ".join(PROFILES)
        faults.add(f"unknown profile {clipped(repr(profile))}{nearest(str(profile), PROFILES)}; known: {known}")
    with faults.caught():
        path, recipe, head = _recipe(str(chosen["method"]))
    with faults.caught():
        card = find_card(str(chosen["dataset"]), data_root(chosen.get("data_root")))
    faults.refuse()
    layers = [
        defaults,
        read_yaml(CONFIGS / "bases" / f"{head.base}.yaml") if head.base else {},
        recipe,
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


def _recipe(method: str) -> tuple[Path, dict[str, Any], Method]:
    """Return a method's file, the configuration in it, and what it says about itself."""
    path = find_method(method)
    content = read_yaml(path)
    head = validated(Method, {k: v for k, v in content.items() if k in Method.model_fields}, str(path))
    return path, {k: v for k, v in content.items() if k not in Method.model_fields}, head


def _resolved(config: Config, card: Card) -> Config:
    """Fill in what follows from the data set: the held-out part, and delta = 1/(n ln n), at most 0.01.

    Raises:
        UserError: one line with all that does not go together, in itself or with the data set.
    """
    holdout = config.data.holdout
    if holdout is None:
        holdout = card.holdout if config.eval.mode == "val" else 0
    n = card.sizes.train - holdout
    if n < 2:
        raise UserError(f"data.holdout={holdout} leaves {n} of {card.sizes.train} training images")
    delta = config.delta if config.delta is not None else min(1 / (n * math.log(n)), LARGE_DELTA)
    resolved = config.model_copy(update={"data": Data(holdout=holdout), "delta": delta})
    require_sense(resolved, card)
    return resolved


def find_method(name: str) -> Path:
    """Return the recipe file of a method, given by name, alias (any case) or path.

    Raises:
        UserError: when there is none; names the nearest.
    """
    if name.endswith((".yaml", ".yml")):
        path = written_path(name)
        try:
            found = path.is_file()
        except OSError as error:
            raise UserError(f"method file {clipped(name)} is no path ({error.strerror})") from None
        if not found:
            raise UserError(f"method file {name} {absence(path)}")
        return path.resolve()
    names: dict[str, Path] = {}
    for path in sorted((CONFIGS / "methods").glob("*.yaml")):
        head = read_yaml(path)
        for alias in (path.stem, *head.get("aliases", ())):
            names[str(alias).lower()] = path
    if name.lower() not in names:
        known = ", ".join(sorted({path.stem for path in names.values()}))
        raise UserError(f"unknown method {clipped(repr(name))}{nearest(name.lower(), names)}; known: {known}")
    return names[name.lower()]


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with `above` laid over it, section by section; `0: {...}` is laid over a list's first element.

    A section whose `kind` is another one replaces the section below it: its keys are those of another part.
    """
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _over(merged.get(key), value, key)
    return merged


def _over(old: Any, value: Any, key: str) -> Any:
    if isinstance(old, Mapping) and isinstance(value, Mapping):
        another = "kind" in value and value["kind"] != old.get("kind", value["kind"])
        return dict(value) if another else merge(old, value)
    if isinstance(old, list) and isinstance(value, Mapping):
        places = {str(place): each for place, each in enumerate(old)}
        wrong = [str(place) for place in value if str(place) not in places]
        if wrong:
            raise UserError(f"{key}.{wrong[0]}: {key} is a list of {len(old)}, its elements are {', '.join(places)}")
        return list(merge(places, {str(place): each for place, each in value.items()}).values())
    return value


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
    settings = registry.settings(str(tree["synthesizer"]))
    common = [key for key in dotted_keys(Config) if key != "recipe" and not key.startswith("recipe.")]
    known = [*common, *dotted_keys(settings)]
    recipe = checked(settings, {key: value for key, value in tree.items() if key not in Config.model_fields}, known)
    own = {key: value for key, value in tree.items() if key in Config.model_fields}
    config = checked(Config, {**own, "recipe": Section() if isinstance(recipe, list) else recipe}, known)
    wrong = [fault for found in (config, recipe) if isinstance(found, list) for fault in found]
    if wrong or isinstance(config, list):
        raise UserError(f"configuration: {'; '.join(wrong)}")
    faults = Faults()
    for metric in config.eval.metrics:
        with faults.caught():
            registry.load("metric", metric)  # a misspelt metric is refused now, not after the training
    faults.refuse()
    return config
