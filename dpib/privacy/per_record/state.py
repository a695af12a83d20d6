"""What a model carries from one forward pass to the next: parameters, buffers, and attributes of its layers."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_REGISTERED = ("_parameters", "_buffers", "_modules")

Attributes = dict[str, Any]
"""Dotted names of plain attributes, and what tells their content from another."""


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield ("parameter NAME" or "buffer NAME", tensor) of all that the model registers."""
    for name, parameter in model.named_parameters():
        yield f"parameter {name}", parameter
    for name, buffer in model.named_buffers():
        yield f"buffer {name}", buffer


def versions(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return what changes whenever a registered tensor is replaced or written to; costs next to nothing."""
    return {name: (id(tensor), tensor._version) for name, tensor in tensors(model)}


class Tensors:
    """A copy of a model's parameters and buffers."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before = {name: tensor.detach().clone() for name, tensor in tensors(model)}

    @torch.no_grad()
    def put_back(self) -> str | None:
        """Restore the copy; return the first name whose values had changed, or None."""
        changed = None
        for name, tensor in tensors(self._model):
            before = self._before.get(name)
            if before is not None and not torch.equal(tensor, before):
                tensor.copy_(before)
                changed = changed or name
        return changed


def attributes(model: nn.Module) -> Attributes:
    """Return the plain attributes of every layer, by content."""
    own = {id(module) for module in model.modules()}
    return {
        f"{layer}.{name}" if layer else name: _content(value, set(own))
        for layer, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in _REGISTERED
    }


def _content(value: Any, seen: set[int]) -> Any:
    """Return something equal for equal content; what cannot be looked into is told apart by its address."""
    if isinstance(value, Tensor | np.ndarray):
        return _digest(torch.as_tensor(value))
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if id(value) in seen:
        return "seen"
    seen.add(id(value))
    if isinstance(value, dict):
        return [(repr(key), _content(item, seen)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_content(item, seen) for item in value]
    if callable(value) and not isinstance(value, nn.Module):
        return repr(value)
    held = getattr(value, "__dict__", None)
    return repr(value) if not held else [type(value).__name__, _content(dict(held), seen)]


def _digest(tensor: Tensor) -> tuple[str, str]:
    flat = tensor.detach().to_dense().cpu().reshape(-1).contiguous()
    raw = flat.view(torch.uint8).numpy().data if len(flat) else b""
    return f"{tensor.dtype} {list(tensor.shape)}", hashlib.sha256(raw).hexdigest()
