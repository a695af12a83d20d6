"""The class-conditional U-Net of the diffusion methods, from diffusers, sized by a few numbers.

Its family is the NCSN++ of Song et al. (ICLR 2021) and Karras et al. (EDM, NeurIPS 2022): group
normalisation, attention at chosen resolutions, and no layer that mixes records or keeps statistics.
"""

import logging
import math
from typing import Literal, NamedTuple

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dpib.section import Positive, Section


class Size(NamedTuple):
    """Width of the first level, multiples of it by level, and the resolutions with attention."""

    nf: int
    ch_mult: tuple[int, ...]
    attn_resolutions: tuple[int, ...]


Preset = Literal["3.8M", "11.1M", "19.6M", "44.2M", "78.5M"]
PRESETS: dict[Preset, Size] = {
    "3.8M": Size(32, (2, 4), (16,)),
    "11.1M": Size(64, (1, 2, 3), (16, 8)),
    "19.6M": Size(64, (1, 2, 2, 4), (16, 8, 4)),
    "44.2M": Size(96, (1, 2, 2, 4), (16, 8, 4)),
    "78.5M": Size(128, (1, 2, 2, 4), (16, 8, 4)),
}
"""The published sizes, named by their published parameter counts at 32 pixels."""


class DenoiserSettings(Section):
    """Keys of `network.*`."""

    nf: Positive = Field(description="width of the first level is nf * ch_mult[0]")
    ch_mult: list[Positive] = Field(min_length=1)
    attn_resolutions: list[Positive] = Field(
        description="sides, in pixels of the image, of the levels with attention; a side that no level has does nothing"
    )
    blocks: Positive = Field(default=2, description="residual blocks per level")
    patch: Positive = Field(default=1, description="side of the pixel squares that become channels; 1: none")
    preset: Preset | None = Field(default=None, description="replaces nf, ch_mult and attn_resolutions")
    label_dim: Positive | None = Field(default=None, description="classes that have an embedding; none: the task's")

    def size(self) -> Size:
        """Return the preset's size, or the one that the keys spell out."""
        if self.preset is not None:
            return PRESETS[self.preset]
        return Size(self.nf, tuple(self.ch_mult), tuple(self.attn_resolutions))


class Denoiser(nn.Module):
    """The raw network F(x, c_noise, label); see `dpib.diffusion.preconditioning` for what it means.

    Labels run from 0 to `null`; `null` = label_dim is the one that stands for "no class", in training
    (label dropout, unconditional pretraining) and in guidance alike.
    """

    def __init__(self, settings: DenoiserSettings, shape: tuple[int, int, int], classes: int) -> None:
        """Initialise from torch's global generator.

        Raises:
            ValueError: when the settings do not fit the image shape or the number of classes.
        """
        super().__init__()
        channels, side, width = shape
        if side != width:
            raise ValueError(f"the U-Net needs square images, not {side}x{width}")
        size = settings.size()
        self.patch = settings.patch
        divisor = settings.patch * 2 ** (len(size.ch_mult) - 1)
        if side % divisor:
            raise ValueError(f"{len(size.ch_mult)} levels of network.ch_mult need a side divisible by {divisor}")
        self.null = settings.label_dim or classes
        if self.null < classes:
            raise ValueError(f"network.label_dim={self.null} is less than the {classes} classes: raise it")
        inner = channels * settings.patch**2
        self.network = _unet(size, side // settings.patch, inner, settings, self.null + 1)
        _start_silent(self.network)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
        """Map x [n, c, h, w], c_noise [n] and labels int64 [n] to [n, c, h, w]."""
        inner = F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x
        # The positional embedding is made for time steps from 0 to 1000.
        out = self.network(inner, 1000 * c_noise, labels, return_dict=False)[0]
        return F.pixel_shuffle(out, self.patch) if self.patch > 1 else out


def _unet(size: Size, side: int, channels: int, settings: DenoiserSettings, labels: int) -> nn.Module:
    from diffusers.models.unets.unet_2d import UNet2DModel  # takes seconds, and most commands build no network

    # One head per attention layer, as published, is what a warning of that module advises against.
    logging.getLogger("diffusers.models.unets.unet_2d_blocks").setLevel(logging.ERROR)
    widths = [size.nf * multiple for multiple in size.ch_mult]
    # A resolution is named in pixels of the image, whatever the patch.
    attends = [side * settings.patch // 2**level in size.attn_resolutions for level in range(len(widths))]
    network: nn.Module = UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(widths),
        layers_per_block=settings.blocks,
        down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        attention_head_dim=None,
        norm_num_groups=_groups(widths),
        norm_eps=1e-6,
        num_class_embeds=labels,
    )
    return network


def _groups(widths: list[int]) -> int:
    """Return the most groups, at most 32 and of at least 4 channels, that divide every width."""
    common = math.gcd(*widths)
    return max(g for g in range(1, max(1, min(32, min(widths) // 4)) + 1) if common % g == 0)


def _start_silent(network: nn.Module) -> None:
    """Set the last layer of every residual branch, and of the network, to zero: it starts as the identity."""
    for name, parameter in network.named_parameters():
        if name.rpartition(".")[0].endswith(("conv_out", ".conv2", ".to_out.0")):
            nn.init.zeros_(parameter)
