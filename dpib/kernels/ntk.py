"""Features `ntk`: gradients of a random frozen perceptron, in closed form.

Y. Yang, K. Adamczewski, D. J. Sutherland, X. Li, M. Park: Differentially private neural tangent kernels for
privacy-preserving data generation (DP-NTK), arXiv:2303.01687.
"""

import math
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dpib.kernels.features import FeatureSettings
from dpib.kernels.outer import OuterRows
from dpib.section import Positive

_EPS = 1e-5  # of the layer normalisation, as torch has it


class NtkSettings(FeatureSettings):
    """Keys of `features.*`."""

    hidden: list[Positive] = Field(default=[800], min_length=1, max_length=2, description="units of the hidden layers")
    outputs: Positive = Field(default=10, description="of the network; the kernel's share of its last layer grows with")


class NtkFeatures:
    """phi(x) = g / ||g||, g the gradient of the sum of f's outputs by all parameters of f.

    f is linear -> ReLU (-> linear) -> layer normalisation without parameters -> linear. With the input u of a layer and
    the gradient delta by what it returns, the layer's part of g is delta (x) [u, 1]. The last layer's delta is 1 for
    every output, so its part is as many copies of one vector: it stands here once, times the root of their number,
    which changes no inner product and no norm.

    Args:
        settings: the widths of f.
        shape: channels, height, width of an image.
        generator: draws f, as torch initialises linear layers; public, so that f can be rebuilt from the seed.
        device: where f lives and features are computed.
    """

    Settings: ClassVar[type[FeatureSettings]] = NtkSettings

    def __init__(
        self, settings: NtkSettings, shape: tuple[int, int, int], generator: torch.Generator, device: torch.device
    ) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        for inputs, outputs in pairwise([math.prod(shape), *settings.hidden, settings.outputs]):
            drawn = 2 * torch.rand(outputs, inputs + 1, generator=generator) - 1
            weight, bias = (drawn / math.sqrt(inputs)).to(device).split([inputs, 1], 1)
            self.layers.append((weight.contiguous(), bias.flatten()))
        self._outputs = settings.outputs

    @property
    def dimension(self) -> int:
        """D, the number of parameters of f, its last layer's counted for one output."""
        *hidden, (last, _) = self.layers
        return sum(weight.numel() + len(bias) for weight, bias in hidden) + last.shape[1] + 1

    def map(self, x: Tensor) -> Tensor:
        """Return phi for float images in [0, 1] [n, c, h, w]: float [n, D], differentiable in x."""
        return self.rows(x).matrix()

    def rows(self, x: Tensor) -> OuterRows:
        """Return the same as outer products, from which sums and inner products come without a row per image."""
        *hidden, (last, _) = self.layers
        (first, bias), *second = hidden
        active = F.relu(F.linear(x.flatten(1), first, bias))
        entered, normed = [x.flatten(1)], active
        for weight, bias in second:
            entered.append(active)
            normed = F.linear(active, weight, bias)
        scale = (normed.var(1, keepdim=True, correction=0) + _EPS).rsqrt()
        normed = (normed - normed.mean(1, keepdim=True)) * scale
        ahead = last.sum(0)
        delta = (ahead - ahead.mean() - normed * (normed * ahead).mean(1, keepdim=True)) * scale
        deltas = [delta]
        for weight, _ in second:
            deltas.insert(0, delta @ weight)
        deltas[0] = deltas[0] * (active > 0)
        copies = torch.full_like(normed[:, :1], math.sqrt(self._outputs))
        return OuterRows([*deltas, copies], [_with_one(u) for u in (*entered, normed)]).normalised()


def _with_one(u: Tensor) -> Tensor:
    return F.pad(u, (0, 1), value=1.0)
