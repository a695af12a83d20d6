"""The base of everything that is read from YAML: closed, frozen, typed, with errors that name the key."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dpib.errors import UserError, nearest


class Section(BaseModel):
    """A group of keys: typed, frozen, and closed (an unknown key is refused)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class PartSettings(Section):
    """What every part of a method has: a network trained on public images, see `dpib.synthesizer.Part`."""

    kind: str = Field(description="its name in the registry, or path/to/file.py:Class")
    file: str | None = Field(default=None, description="checkpoint of such a part; with it nothing is fitted here")
    weights: str | None = Field(default=None, description="file of weights to begin with; none: random ones")


class _Int(int):
    """A number of a YAML file that remembers how it was written, in case a text is wanted."""

    written: str


class _Float(float):
    written: str


def _as_text(value: Any) -> Any:
    """Take a class called 007 or 1e3 as it is written although YAML reads a number there."""
    if isinstance(value, _Int | _Float):
        return value.written
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_as_text)]
Positive = Annotated[int, Field(gt=0)]


class _Loader(yaml.SafeLoader):
    """YAML with plain words as people mean them: 010 is ten, 12:30 and 2024-01-01 are texts, none is null.

    It reads no aliases, which can grow without end, and takes a key that stands twice for an error.
    """

    yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in known if tag.rpartition(":")[2] not in ("int", "float", "timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read: write it out", mark)
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = _Int(self.construct_scalar(node))
        number.written = node.value
        return number

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        number = _Float(super().construct_yaml_float(node))
        number.written = node.value
        return number

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice.pop()!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that `_Loader` would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_FORMS = {
    "int": (r"[-+]?\d[\d_]*", "-+0123456789"),
    "float": (
        r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"none|None", "nN"),
}
for _reader in (_Loader, _Dumper):
    for _tag, (_form, _first_letters) in _FORMS.items():
        _reader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_form})$"), list(_first_letters))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_Dumper.add_representer(_Int, yaml.SafeDumper.represent_int)
_Dumper.add_representer(_Float, yaml.SafeDumper.represent_float)


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML text; `source` names it in errors.

    Raises:
        UserError: where and why it does not parse.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # an integer may have too many digits
        raise UserError(f"{clipped(source)}: {clipped(str(error), 300)}") from None
    except RecursionError:
        raise UserError(f"{clipped(source)}: brackets within brackets, deeper than any configuration is") from None


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """Return YAML that `parse_yaml` reads back as the same `tree`."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def parse_value(text: str, key: str, *models: type[BaseModel]) -> Any:
    """Return the value of a dotted `key` on a command line: literally where one of `models` has a text there.

    There `none` is None if the key may be that; any other key is read as YAML.

    Raises:
        UserError: where and why it does not parse.
    """
    declared = next((kind for model in models for name, kind in _fields(model) if name == key), None)
    kinds = set(_alternatives(declared))
    if str in kinds and kinds <= {str, NoneType}:
        return None if NoneType in kinds and text in ("none", "None", "null", "~", "") else text
    return parse_yaml(text, f"{key}={text}")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file (empty for an empty file).

    Raises:
        UserError: when the file is missing, does not parse, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read {clipped(str(path), 300)}: {reason}") from None
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
        UserError: one line that names every offending key.
    """
    found = checked(model, tree, known)
    if isinstance(found, list):
        raise UserError(f"{source}: {'; '.join(found)}")
    return found


def checked(model: type[Model], tree: Mapping[str, Any], known: Iterable[str] = ()) -> Model | list[str]:
    """Return `tree` as `model`, or what is wrong with it: a text for each offending key."""
    try:
        return model.model_validate(dict(tree))
    except ValidationError as error:
        names = [*known, *dotted_keys(model)]
        kinds = {kind.__name__ for kind in _models_below(model)}
        # Where a value fits none of several types, one error for it says enough.
        faults = {_place(fault["loc"], kinds): fault for fault in reversed(error.errors())}
        return [_told(fault, names) for fault in reversed(faults.values())]


def _place(loc: tuple[int | str, ...], kinds: set[str]) -> tuple[int | str, ...]:
    """Return the place of an error in the tree: up to where pydantic names one of several types tried there."""
    tried = (i for i, part in enumerate(loc) if part in kinds or part in ("bool", "int", "float", "str"))
    return loc[: next(tried, len(loc))]


def _told(fault: Any, known: list[str]) -> str:
    key = ".".join(str(part) for part in fault["loc"]) or "value"
    if fault["type"] == "extra_forbidden":
        return f"unknown key {clipped(repr(key))}{nearest(key, known)}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{key}: {message.removeprefix('value error, ')}, got {clipped(repr(fault['input']))}"


def clipped(text: str, length: int = 100) -> str:
    """Return the text in one line, cut where it is longer than anybody reads."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length and len(text) <= 4 * length else f"{line[:length]}..."


def dotted_keys(model: type[BaseModel]) -> list[str]:
    """Return every dotted key of a model, sections included."""
    return [key for key, _ in _fields(model)]


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key with its declared type."""
    for name, field in model.model_fields.items():
        yield prefix + name, field.annotation
        for kind in _models_in(field.annotation):
            yield from _fields(kind, f"{prefix}{name}.")


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _models_below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in model.model_fields.values():
        for kind in _models_in(field.annotation):
            yield kind
            yield from _models_below(kind)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the plain types that a declaration allows."""
    if get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _alternatives(part)
    else:
        yield annotation
