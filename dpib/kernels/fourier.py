"""Features `fourier`: random Fourier features of the Gaussian kernel (Rahimi and Recht 2007)."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpib.kernels.features import Dense, FeatureSettings
from dpib.section import Positive


class FourierSettings(FeatureSettings):
    """Keys of `features.*`."""

    dimension: Positive = Field(description="D, the number of random features, sines and cosines together")
    bandwidths: list[float] = Field(min_length=1, description="kernel variances for 784 pixels in [0, 1]")


class FourierFeatures:
    """phi(x) = sqrt(2/D) [cos Wx, sin Wx], with the rows of W drawn from N(0, I/s).

    <phi(x), phi(x')> approximates exp(-||x - x'||^2 / (2 s)), averaged over the bandwidths s when there
    are several, and ||phi(x)|| is 1 for every x. A bandwidth is scaled by pixels/784: squared distances
    grow with the number of pixels, and an unscaled kernel would vanish on larger images.

    Args:
        settings: D and bandwidths.
        shape: channels, height, width of an image.
        generator: draws W; public, so that the features can be rebuilt from the seed.
        device: where W lives and features are computed.
    """

    Settings: ClassVar[type[FeatureSettings]] = FourierSettings

    def __init__(
        self,
        settings: FourierSettings,
        shape: tuple[int, int, int],
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        pixels = math.prod(shape)
        blocks = [
            torch.randn(pixels, columns, generator=generator) / math.sqrt(s * pixels / 784)
            for s, columns in zip(settings.bandwidths, _shares(settings), strict=True)
        ]
        self.frequencies = torch.cat(blocks, 1).to(device)

    @property
    def dimension(self) -> int:
        """D, the length of phi(x)."""
        return 2 * self.frequencies.shape[1]

    def map(self, x: Tensor) -> Tensor:
        """Return phi for float images in [0, 1] [n, c, h, w]: float [n, D], differentiable in x."""
        angles = x.flatten(1) @ self.frequencies
        return torch.cat([angles.cos(), angles.sin()], 1) * math.sqrt(2 / self.dimension)

    def rows(self, x: Tensor) -> Dense:
        """Return the same as rows whose norm is 1 by construction."""
        return Dense(x, self.map, unit=True)


def _shares(settings: FourierSettings) -> Sequence[int]:
    """Split the D/2 frequencies over the bandwidths as evenly as possible."""
    pairs, parts = settings.dimension // 2, len(settings.bandwidths)
    return [pairs // parts + (i < pairs % parts) for i in range(parts)]
