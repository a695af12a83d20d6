"""The base of everything that is read from YAML: closed, frozen, typed, with errors that name the key."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dpib.errors import UserError, nearest


class Section(BaseModel):
    """A group of keys: typed, frozen, and closed (an unknown key is refused)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _as_text(value: Any) -> Any:
    """Keep `-P note=2024` a text although YAML reads a number there."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_as_text)]
Positive = Annotated[int, Field(gt=0)]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with 1e-3 a number and none the same as null, and with a key that stands twice an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice.pop()!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(none|None)$"), ["n", "N"])


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML text; `source` names it in errors.

    Raises:
        UserError: where and why it does not parse.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{source}: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file (empty for an empty file).

    Raises:
        UserError: when the file is missing, does not parse, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    tree = parse_yaml(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected keys and values, found a {type(tree).__name__}")
    return tree


Model = TypeVar("Model", bound=Section)


def validated(model: type[Model], tree: Mapping[str, Any], source: str, known: Iterable[str] = ()) -> Model:
    """Return `tree` as `model`; `known` are the dotted keys among which to look for a misspelt one.

    Raises:
        UserError: one line that names the first offending key.
    """
    try:
        return model.model_validate(dict(tree))
    except ValidationError as error:
        raise UserError(f"{source}: {_first(error, [*known, *dotted_keys(model)])}") from None


def _first(error: ValidationError, known: list[str]) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"]) or "value"
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key!r}{nearest(key, known)}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{key}: {message.removeprefix('value error, ')}, got {fault['input']!r}"


def dotted_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return every dotted key of a model, sections included."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for kind in _models_in(field.annotation):
            keys += dotted_keys(kind, f"{prefix}{name}.")
    return keys


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
