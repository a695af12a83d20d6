"""The denoising loss, drawn K times per record (Karras et al. 2022; Dockhorn et al.: DPDM, TMLR 2023)."""

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from dpib.diffusion.preconditioning import denoised, loss_weight
from dpib.images import to_unit
from dpib.section import Section


class LossSettings(Section):
    """Keys of `loss.*`."""

    p_mean: float = Field(default=-1.2, description="mean of the logarithm of the noise level")
    p_std: float = Field(default=1.2, gt=0, description="its standard deviation")
    label_dropout: float = Field(default=0.1, ge=0, le=1, description="share of records that lose their label")


@dataclass(frozen=True)
class DenoisingLoss:
    """L = mean over K draws of w(s) |D(x + s n, s, y) - x|^2 per pixel, ln s ~ N(p_mean, p_std^2), n ~ N(0, I).

    Whether a record loses its label is drawn once, and shared by its K draws: what is clipped is the
    gradient of one record under one label.

    Args:
        settings: the distribution of noise levels, and the label dropout.
        null: the label that means "no class".
        multiplicity: K.
    """

    settings: LossSettings
    null: int
    multiplicity: int = 1

    def rows(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw K rows of each record, a record's rows one after the other.

        Args:
            x: uint8 [b, c, h, w].
            y: int64 [b].
            generator: a CPU generator.

        Returns:
            clean images in [-1, 1], noise (both [b K, c, h, w]), noise levels [b K], labels int64 [b K].
        """
        dropped = torch.rand(len(y), generator=generator) < self.settings.label_dropout
        labels = torch.where(dropped, self.null, y).repeat_interleave(self.multiplicity)
        clean = (2 * to_unit(x) - 1).repeat_interleave(self.multiplicity, 0)
        level = self.settings.p_mean + self.settings.p_std * torch.randn(len(labels), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        return clean, noise, level.exp(), labels

    def per_row(self, model: nn.Module, *rows: Tensor) -> Tensor:
        """Return one loss per row, float [rows]."""
        clean, noise, sigma, labels = rows
        scale = sigma.view(-1, 1, 1, 1)
        error = denoised(model, clean + scale * noise, sigma, labels) - clean
        return loss_weight(sigma) * error.square().mean((1, 2, 3))
