"""Features `conv_ntk`: gradients of a random frozen convolutional network, by automatic differentiation."""

from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from dpib import seeding
from dpib.kernels.features import FeatureSettings
from dpib.section import Positive

_AT_ONCE = 250  # images whose gradients are taken together: bounds memory and changes no result


class ConvNtkSettings(FeatureSettings):
    """Keys of `features.*`."""

    channels: list[Positive] = Field(default=[16, 32], min_length=1, description="of the convolutions, each halved")
    outputs: Positive = Field(default=10, description="of the network; the kernel's share of its last layer grows with")


class ConvNtkFeatures:
    """phi(x) = g / ||g||, g the gradient of the sum of f's outputs by all parameters of f.

    f is, for each number of channels, convolution 3 x 3 -> ReLU -> mean over 2 x 2 pixels; then a linear layer. The
    last bias has gradient 1, so that ||g|| is never 0. For perceptrons `ntk` is the same in closed form and far
    faster: here every image of a batch has a row of D numbers.

    Args:
        settings: the widths of f.
        shape: channels, height, width of an image.
        generator: decides f; public, so that f can be rebuilt from the seed.
        device: where f lives and features are computed.

    Raises:
        ValueError: when an image has no pixel left after so many convolutions.
    """

    Settings: ClassVar[type[FeatureSettings]] = ConvNtkSettings

    def __init__(
        self, settings: ConvNtkSettings, shape: tuple[int, int, int], generator: torch.Generator, device: torch.device
    ) -> None:
        height, width = (side // 2 ** len(settings.channels) for side in shape[1:])
        if not height * width:
            raise ValueError(f"features.channels={settings.channels} leaves no pixel of {shape[1]} x {shape[2]}")
        layers: list[nn.Module] = []
        with seeding.seeded(int(torch.randint(2**62, (), generator=generator)), "network"):
            for inputs, outputs in pairwise([shape[0], *settings.channels]):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)]
            last = nn.Linear(settings.channels[-1] * height * width, settings.outputs)
        self.network = nn.Sequential(*layers, nn.Flatten(), last).to(device).requires_grad_(False)

    @property
    def dimension(self) -> int:
        """D, the number of parameters of f."""
        return sum(p.numel() for p in self.network.parameters())

    def map(self, x: Tensor) -> Tensor:
        """Return phi for float images in [0, 1] [n, c, h, w]: float [n, D], differentiable in x."""

        def output(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
            value: Tensor = functional_call(self.network, parameters, (image[None],)).sum()
            return value

        of_each = vmap(grad(output), in_dims=(None, 0), chunk_size=_AT_ONCE)
        gradients = of_each(dict(self.network.named_parameters()), x)
        rows = torch.cat([g.flatten(1) for g in gradients.values()], 1)
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return rows / norms
