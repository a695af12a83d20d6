"""The denoising loss, drawn K times per record (Karras et al. 2022; Dockhorn et al.: DPDM, TMLR 2023)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from pydantic import Field
from torch import Tensor, nn

from dpib.diffusion.preconditioning import denoised, loss_weight
from dpib.draws import Draws
from dpib.images import to_unit
from dpib.section import Section


class LossSettings(Section):
    """Keys of `loss.*`."""

    p_mean: float = Field(default=-1.2, description="mean of the logarithm of the noise level")
    p_std: float = Field(default=1.2, gt=0, description="its standard deviation")
    label_dropout: float = Field(default=0.1, ge=0, le=1, description="share of records that lose their label")


def signed(x: Tensor) -> Tensor:
    """Return uint8 images as pixels in [-1, 1]."""
    return 2 * to_unit(x) - 1


@dataclass(frozen=True)
class DenoisingLoss:
    """L = mean over K draws of w(s) |D(x + s n, s, y) - x|^2 per pixel, ln s ~ N(p_mean, p_std^2), n ~ N(0, I).

    Whether a record loses its label is drawn once, and shared by its K draws: what is clipped is the
    gradient of one record under one label.

    Args:
        settings: the distribution of noise levels, and the label dropout.
        null: the label that means "no class".
        multiplicity: K.
        encode: brings images uint8 [b, c, h, w] to the space that is learnt in, each from itself alone.
    """

    settings: LossSettings
    null: int
    multiplicity: int = 1
    encode: Callable[[Tensor], Tensor] = signed

    def rows(self, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw K rows of each record.

        Args:
            x: uint8 [b, c, h, w].
            y: int64 [b].
            draws: of these records.

        Returns:
            encoded images, noise (both [b, K, ...]), noise levels [b, K], labels int64 [b, K].
        """
        k, clean = self.multiplicity, self.encode(x)
        # All at once: for small images the draws cost less than asking for them.
        numbers = draws.normal(1 + k + k * clean[0].numel())
        labels = torch.where(numbers[:, 0] < self._quantile(), self.null, y)[:, None].expand(-1, k)
        level = self.settings.p_mean + self.settings.p_std * numbers[:, 1 : 1 + k]
        noise = numbers[:, 1 + k :].reshape(len(y), k, *clean.shape[1:])
        return clean[:, None].expand_as(noise), noise, level.exp(), labels

    def _quantile(self) -> float:
        """Return what a standard normal number is below with the probability of a dropped label."""
        share = self.settings.label_dropout
        return NormalDist().inv_cdf(share) if 0 < share < 1 else (share - 0.5) * math.inf

    def per_row(self, model: nn.Module, *rows: Tensor) -> Tensor:
        """Return one loss per row, float [rows]."""
        clean, noise, sigma, labels = rows
        scale = sigma.view(-1, 1, 1, 1)
        error = denoised(model, clean + scale * noise, sigma, labels) - clean
        return loss_weight(sigma) * error.square().mean((1, 2, 3))
