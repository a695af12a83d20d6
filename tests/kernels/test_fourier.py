"""Random Fourier features: unit norm for every image, and the right kernel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpib import seeding
from dpib.kernels.fourier import FourierFeatures, FourierSettings


def features(shape=(1, 8, 8), dimension=400, bandwidths=(30.0,)):
    chosen = FourierSettings(kind="fourier", dimension=dimension, bandwidths=list(bandwidths))
    return FourierFeatures(chosen, shape, seeding.generator(0, "w"), torch.device("cpu"))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=64, max_size=64),
    st.sampled_from([(105.0,), (1e-3,), (15.0, 60.0), (10.0, 30.0, 100.0)]),
)
def test_the_norm_is_one_for_any_input(pixels, bandwidths):
    x = torch.tensor(pixels).reshape(1, 1, 8, 8)
    assert float(features(bandwidths=bandwidths).map(x).norm()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("bandwidths", [(30.0,), (10.0, 100.0)])
def test_inner_products_approximate_the_kernel(bandwidths):
    f = features(dimension=40_000, bandwidths=bandwidths)
    x = torch.rand(6, 1, 8, 8)
    scaled = [s * 64 / 784 for s in bandwidths]
    squared = torch.cdist(x.flatten(1), x.flatten(1)).square()
    exact = torch.stack([torch.exp(-squared / (2 * s)) for s in scaled]).mean(0)
    phi = f.map(x)
    assert float((phi @ phi.T - exact).abs().max()) < 0.03


def test_the_bandwidth_follows_the_number_of_pixels():
    """Tiling an image multiplies squared distances and bandwidth alike: the kernel stays."""
    small, large = features(dimension=40_000), features((1, 16, 16), dimension=40_000)
    x = torch.rand(2, 1, 8, 8)
    a, b = small.map(x), large.map(x.repeat(1, 1, 2, 2))
    assert float(a[0] @ a[1]) == pytest.approx(float(b[0] @ b[1]), abs=0.03)


def test_the_same_seed_gives_the_same_features():
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(features().map(x), features().map(x))
