"""Gradient features of a convolutional network, against one backward pass per image."""

import pytest
import torch

from dpib import seeding
from dpib.kernels.conv_ntk import ConvNtkFeatures, ConvNtkSettings
from dpib.kernels.features import rows_of

SHAPE = (1, 8, 8)


def features(channels=(3, 4), seed=0):
    settings = ConvNtkSettings(kind="conv_ntk", channels=list(channels))
    return ConvNtkFeatures(settings, SHAPE, seeding.generator(seed, "f"), torch.device("cpu"))


def images(n=5):
    return torch.rand(n, *SHAPE, generator=seeding.generator(0, "x"))


def test_rows_are_those_of_a_backward_pass_per_image():
    f = features()
    network = f.network.requires_grad_()
    rows = []
    for image in images():
        gradient = torch.autograd.grad(network(image[None]).sum(), list(network.parameters()))
        row = torch.cat([g.flatten() for g in gradient])
        rows.append(row / row.norm())
    assert torch.allclose(f.map(images()), torch.stack(rows), atol=1e-6)
    assert f.map(images()).shape == (5, f.dimension)


@pytest.mark.parametrize("level", [0.0, 1.0, 1e6, -1e6, 1e-30])
def test_the_norm_is_one_for_any_image(level):
    x = torch.full((1, *SHAPE), level)
    assert float(rows_of(features(), x).norms()) == pytest.approx(1, abs=1e-5)


def test_features_are_differentiable_in_the_image():
    f = features()
    x = images(2).double().requires_grad_()
    f.network.double()
    assert torch.autograd.gradcheck(lambda z: f.map(z)[:, ::7], x, atol=1e-4)


def test_the_network_follows_from_the_seed_alone():
    x = images()
    torch.manual_seed(5)
    first = features().map(x)
    torch.manual_seed(6)
    assert torch.equal(first, features().map(x))
    assert not torch.equal(first, features(seed=1).map(x))


def test_an_image_too_small_is_refused():
    with pytest.raises(ValueError, match="leaves no pixel of 8 x 8"):
        features((1, 1, 1, 1))
