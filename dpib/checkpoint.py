"""Checkpoints as safetensors: nested state with tensors and plain values, no pickle anywhere."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dpib.atomic import replacing
from dpib.errors import UserError, absence

State = dict[str, Any]
"""Nested dictionaries and lists of tensors, numbers, texts, booleans and None."""


def save(path: Path, state: State, **texts: str) -> None:
    """Write `state` to `path`, atomically; `texts`, such as the `ledger` of what it cost, travel with it."""
    tensors: dict[str, Tensor] = {}
    metadata = {"outline": json.dumps(_outline(state, tensors)), **texts}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load(path: Path) -> State:
    """Read what `save` wrote.

    Raises:
        UserError: when the file is missing or is no checkpoint of this kind.
    """
    with _opened(path) as (file, metadata):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        state = _restore(json.loads(metadata["outline"]), tensors)
        assert isinstance(state, dict)
        return state


def text(path: Path, name: str) -> str | None:
    """Return a text that was saved with a checkpoint, or None where there is none of that name.

    Raises:
        UserError: as `load` does.
    """
    with _opened(path) as (_, metadata):
        return metadata.get(name)


def beside(path: Path, name: str) -> Path:
    """Return the file for the snapshot of phase `name` of what has its own at `path`."""
    return path.with_stem(f"{path.stem}-{name}")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    if not path.is_file():
        raise UserError(f"checkpoint {path} {absence(path)}")
    try:
        with safe_open(path, "pt") as file:
            yield file, file.metadata() or {}
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a checkpoint of dpib, or is corrupt ({error})") from None


def _outline(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return `value` with every tensor moved to `tensors` and replaced by a reference to it."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().to("cpu").clone().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_outline(k, tensors), _outline(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_outline(v, tensors) for v in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _restore(outline: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(outline, dict):
        return outline
    if "tensor" in outline:
        return tensors[outline["tensor"]]
    if "list" in outline:
        return [_restore(v, tensors) for v in outline["list"]]
    return {_restore(k, tensors): _restore(v, tensors) for k, v in outline["dict"]}
