"""What the raw network F means: the denoiser D(x, s, y) = c_skip x + c_out F(c_in x, c_noise, y) (EDM, table 1)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

SIGMA_DATA = math.sqrt(1 / 3)
"""Standard deviation of a uniform variable on [-1, 1], as in DPDM (EDM itself takes 0.5 for natural images)."""


class Scalings(NamedTuple):
    """The four coefficients, each of sigma's shape."""

    skip: Tensor
    out: Tensor
    in_: Tensor
    noise: Tensor


def scalings(sigma: Tensor) -> Scalings:
    """Return the coefficients at noise levels `sigma` > 0 of any shape."""
    total = sigma.square() + SIGMA_DATA**2
    return Scalings(SIGMA_DATA**2 / total, sigma * SIGMA_DATA * total.rsqrt(), total.rsqrt(), torch.log(sigma) / 4)


def loss_weight(sigma: Tensor) -> Tensor:
    """Return w(s) = (s^2 + sd^2) / (s sd)^2, under which F is trained to unit variance at every level."""
    return (sigma.square() + SIGMA_DATA**2) / (sigma * SIGMA_DATA).square()


def denoised(model: nn.Module, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
    """Return D(x, sigma, labels): x [n, c, h, w] with noise of levels sigma [n], labels int64 [n]."""
    c = scalings(sigma.view(-1, 1, 1, 1))
    raw: Tensor = model(c.in_ * x, c.noise.view(-1), labels)
    return c.skip * x + c.out * raw
