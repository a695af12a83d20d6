"""In which numbers networks compute: bfloat16 where the hardware multiplies it faster, else float32.

Parameters, optimisers, norms, clipping, sums and noise are float32 or wider in any case.
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # every configuration is read with this module, and without torch
    import torch

Precision = Literal["auto", "fp32", "bf16"]


def lowers(precision: Precision, device: "torch.device") -> bool:
    """Return whether passes through networks are made in bfloat16 on a device."""
    return multiplies_faster(device) if precision == "auto" else precision == "bf16"


def multiplies_faster(device: "torch.device") -> bool:
    """Return whether a device has units for products of bfloat16."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def passes(lower: bool, device: "torch.device") -> AbstractContextManager[object]:
    """Return a context in which networks compute in bfloat16 if `lower`; turn what they return into float32."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=lower)


def settled(precision: Precision, device: "torch.device") -> Precision:
    """Return a precision that does not depend on anything that is timed."""
    return "bf16" if lowers(precision, device) else "fp32"
