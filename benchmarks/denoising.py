"""The workloads of the DP-SGD benchmarks: a class-conditional U-Net under the EDM loss (Karras 2022).

`plain` is diffusers' own network and a loss of these few lines; `smoke`, `fast` and `paper` are the network and
the loss of the DPDM recipe on MNIST.
"""

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from dpib.config import compose
from dpib.diffusion.loss import DenoisingLoss
from dpib.diffusion.settings import DiffusionSettings
from dpib.draws import Draws
from dpib.nn.denoiser import Denoiser
from dpib.privacy.per_record.base import RecordLoss

WORKLOADS = ("plain", "smoke", "fast", "paper")

VARIANCE = 1 / 3  # of pixels in [-1, 1]


def unet(width: int = 64, layers: int = 2, size: int = 28) -> nn.Module:
    """Return a U-Net for gray images; the default has 1.6 M parameters."""
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=size,
        in_channels=1,
        out_channels=1,
        block_out_channels=(width, width),
        layers_per_block=layers,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=min(32, width // 2),
        num_class_embeds=11,
    )


class Denoising:
    """The EDM loss of one record over `multiplicity` noise levels."""

    def __init__(self, multiplicity: int) -> None:
        self.multiplicity = multiplicity

    def rows(self, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        """Return K rows for every record of `x`."""
        k = self.multiplicity
        noise = draws.normal(k, *x.shape[1:])
        images = (x.float() / 127.5 - 1)[:, None].expand_as(noise)
        return images, torch.exp(-1.2 + 1.2 * draws.normal(k)), noise, y[:, None].expand(-1, k)

    def per_row(self, model: nn.Module, x: Tensor, levels: Tensor, noise: Tensor, y: Tensor) -> Tensor:
        level = levels[:, None, None, None]
        total = level**2 + VARIANCE
        noisy = x + level * noise
        output = model(noisy / total.sqrt(), 250 * levels.log(), class_labels=y).sample
        target = (x - VARIANCE / total * noisy) * total.sqrt() / (level * VARIANCE**0.5)
        return ((output - target) ** 2).mean((1, 2, 3))


def workload(name: str, multiplicity: int) -> tuple[nn.Module, RecordLoss]:
    """Return the model and the loss of one of `WORKLOADS`, at K noise draws per record."""
    if name == "plain":
        return unet(), Denoising(multiplicity)
    config, card = compose({"method": "dpdm", "dataset": "mnist_28", "profile": name})
    assert isinstance(config.recipe, DiffusionSettings)
    torch.manual_seed(0)
    model = Denoiser(config.recipe.network, card.shape, len(card.classes))
    return model, DenoisingLoss(config.recipe.loss, model.null, multiplicity)
