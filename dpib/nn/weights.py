"""Weights from outside: read as tensors and nothing else."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dpib.errors import UserError


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file (.pth, .pt or .safetensors); no code in it is run.

    Raises:
        UserError: when it cannot be loaded safely, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - whatever a hostile or broken file provokes, it is not loaded
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be loaded safely as weights: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} does not hold a dictionary of tensors")
    return state
