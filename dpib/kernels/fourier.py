"""Random Fourier features of the Gaussian kernel, tensored with the label (Rahimi and Recht 2007)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dpib.images import to_unit
from dpib.section import Positive, Section


class FourierSettings(Section):
    """Keys of `features.*`."""

    dimension: Positive = Field(description="D, the number of random features, sines and cosines together")
    bandwidths: list[float] = Field(min_length=1, description="kernel variances for 784 pixels in [0, 1]")
    count_weight: float = Field(gt=0, description="public weight of the coordinate that carries class counts")


class FourierFeatures:
    """phi(x) = sqrt(2/D) [cos Wx, sin Wx], with the rows of W drawn from N(0, I/s).

    <phi(x), phi(x')> approximates exp(-||x - x'||^2 / (2 s)), averaged over the bandwidths s when there
    are several, and ||phi(x)|| is 1 for every x. A bandwidth is scaled by pixels/784: squared distances
    grow with the number of pixels, and an unscaled kernel would vanish on larger images.

    As a `Feature` of a labelled record it is e_y (x) [phi(x), w] / sqrt(1 + w^2), float [classes, D + 1]:
    the last column counts the class, and the norm is 1 for every record.

    Args:
        shape: channels, height, width of an image.
        classes: the number of classes.
        settings: D, bandwidths and w.
        generator: draws W; public, so that the features can be rebuilt from the seed.
        device: where W lives and features are computed.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        settings: FourierSettings,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        pixels = math.prod(shape)
        self.classes = classes
        self.count_weight = settings.count_weight
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

    def norms(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the norm of every record's feature, float64 [n]: 1 by construction."""
        return torch.ones(len(x), dtype=torch.float64, device=self.frequencies.device)

    def weighted_sum(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_i weights_i feature(x_i, y_i) for uint8 images: float [classes, D + 1]."""
        device = self.frequencies.device
        assign = F.one_hot(y.to(device), self.classes).T * weights.to(device, torch.float32)
        features = self.map(to_unit(x.to(device)))
        counts = assign.sum(1, keepdim=True) * self.count_weight
        return torch.cat([assign @ features, counts], 1) / math.sqrt(1 + self.count_weight**2)

    def class_means(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a released sum into class-wise mean embeddings and class proportions (post-processing).

        Args:
            total: float [classes, D + 1].

        Returns:
            means [classes, D] and proportions [classes], which are positive and sum to 1.
        """
        total = total * math.sqrt(1 + self.count_weight**2)
        # Noise can make the count of a rare class tiny or negative: no class counts less than one image.
        counts = (total[:, -1] / self.count_weight).clamp(min=1)
        return total[:, :-1] / counts[:, None], counts / counts.sum()


def _shares(settings: FourierSettings) -> Sequence[int]:
    """Split the D/2 frequencies over the bandwidths as evenly as possible."""
    pairs, parts = settings.dimension // 2, len(settings.bandwidths)
    return [pairs // parts + (i < pairs % parts) for i in range(parts)]
