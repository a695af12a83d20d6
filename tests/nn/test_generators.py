"""Generators: published sizes, ranges, and what their noise does."""

import pytest
import torch

from dpib.nn.generators import GeneratorSettings, build


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("shape", "width", "millions"),
    [((1, 28, 28), 41, 1.42), ((1, 28, 28), 96, 6.65), ((3, 32, 32), 60, 3.84), ((3, 64, 64), 60, 4.02)],
)
def test_the_benchmark_generator_has_the_published_size(shape, width, millions):
    network = build(GeneratorSettings(name="biggan", latent=60, width=width), shape, 10)
    assert parameters(network) / 1e6 == pytest.approx(millions, abs=0.006)


def test_the_small_generator_has_the_published_size():
    network = build(GeneratorSettings(name="small", latent=5, width=16), (1, 28, 28), 10)
    assert parameters(network) / 1e6 == pytest.approx(0.166, abs=0.001)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize(
    "settings",
    [
        GeneratorSettings(name="small", latent=5, width=8),
        GeneratorSettings(name="small", latent=5, width=8, grain=True),
        GeneratorSettings(name="biggan", latent=60, width=8),
    ],
    ids=["small", "grain", "biggan"],
)
def test_images_have_the_shape_and_lie_in_the_unit_interval(shape, settings):
    network = build(settings, shape, 4)
    x = network(torch.randn(6, network.latent), torch.arange(6) % 4).detach()
    assert x.shape == (6, *shape)
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1


def test_grain_moves_pixels_and_its_absence_does_not():
    for grain in (True, False):
        network = build(GeneratorSettings(name="small", latent=5, width=8, grain=grain), (1, 28, 28), 4).eval()
        z = torch.randn(1, network.latent).repeat(2, 1)
        z[1, 5:] = torch.randn(z.shape[1] - 5)
        x = network(z, torch.zeros(2, dtype=torch.long))
        assert bool((x[0] - x[1]).abs().max() > 1e-3) == grain


@pytest.mark.parametrize(
    ("settings", "shape", "says"),
    [
        (GeneratorSettings(name="biggan", latent=61, width=8), (1, 28, 28), "divisible by 3"),
        (GeneratorSettings(name="biggan", latent=60, width=8), (1, 20, 20), "28, 32, 64 or 128"),
        (GeneratorSettings(name="small", latent=5, width=8), (1, 30, 30), "divisible by 4"),
    ],
)
def test_what_cannot_be_built_is_said(settings, shape, says):
    with pytest.raises(ValueError, match=says):
        build(settings, shape, 10)
