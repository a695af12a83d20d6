"""The keys of a command line: dotted, each with a text, and what they become."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from dpib.errors import Faults, UserError
from dpib.section import parse_value


def parsed(overrides: Mapping[str, str], *models: type[BaseModel]) -> dict[str, Any]:
    """Return dotted `overrides` as a nested mapping; a key that is a text in one of `models` is taken literally.

    Raises:
        UserError: one line with every text that does not parse, or when two keys contradict each other.
    """
    values, faults = {}, Faults()
    for key, text in overrides.items():
        with faults.caught():
            values[key] = parse_value(text, key, *models)
    faults.refuse()
    return nest(values)


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into nested mappings; sections that are given twice are joined.

    Raises:
        UserError: when one key is given twice, or is both a value and a section.
    """
    tree: dict[str, Any] = {}
    for dotted, value in flat.items():
        *path, last = dotted.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"{dotted}: {part!r} was already given a value of its own")
        _put(node, last, value, dotted)
    return tree


def _put(node: dict[str, Any], key: str, value: Any, dotted: str) -> None:
    if key not in node:
        node[key] = deepcopy(value)
        return
    before = node[key]
    if not (isinstance(before, dict) and isinstance(value, Mapping)):
        raise UserError(f"{dotted} is given twice: leave one of them out")
    for inner, below in value.items():
        _put(before, inner, below, f"{dotted}.{inner}")
