"""The noise source: right distributions, no repetition, no seed."""

import numpy as np
import pytest
import torch
from scipy import stats

from dpib.privacy.rng import NoiseSource


def test_normal_has_the_right_distribution():
    draw = NoiseSource(1).normal((400_000,)).numpy()
    assert abs(draw.mean()) < 4 / np.sqrt(len(draw))
    assert abs(draw.std() - 1) < 4 / np.sqrt(2 * len(draw))
    assert stats.kstest(draw, "norm").pvalue > 1e-3
    assert abs(stats.kurtosis(draw)) < 0.05
    halves = draw.reshape(2, -1)
    assert abs(np.corrcoef(halves[0], halves[1])[0, 1]) < 0.01


def test_laplace_has_the_right_distribution():
    draw = NoiseSource(2).laplace(200_000, 3.0).numpy()
    assert stats.kstest(draw, "laplace", args=(0, 3.0)).pvalue > 1e-3


def test_bernoulli_has_the_right_rate():
    hits = NoiseSource(3).bernoulli(200_000, 0.07).double()
    assert abs(hits.mean() - 0.07) < 4 * np.sqrt(0.07 * 0.93 / 200_000)


def test_uniform_never_reaches_its_ends():
    draw = NoiseSource(4).uniform(1_000_000)
    assert draw.min() > 0
    assert draw.max() < 1


def test_odd_shapes():
    assert NoiseSource().normal((3, 5, 7)).shape == (3, 5, 7)
    assert NoiseSource().normal(()).shape == ()


def test_long_noise_is_the_same_by_any_number_of_threads_and_no_block_repeats():
    def drawn(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return NoiseSource(5).normal((3 * 2**15 + 7,))
        finally:
            torch.set_num_threads(before)

    one, four = drawn(1), drawn(4)
    assert torch.equal(one, four)
    assert len(one.unique()) == len(one)
    source = NoiseSource(5)
    assert torch.equal(source.normal((3 * 2**15 + 7,)), one)
    assert not torch.isin(source.normal((100,)), one).any()


@pytest.mark.parametrize("n", [1, 2, 2**15 - 1, 2**15 + 1])
def test_no_number_of_a_block_is_left_out(n):
    draws = torch.stack([NoiseSource(seed).normal((n,)) for seed in range(3)])
    assert draws.isfinite().all()
    assert (draws.std(0) > 0).all()


def test_two_sources_and_two_draws_differ():
    a, b = NoiseSource(), NoiseSource()
    first = a.normal((100,))
    assert not torch.equal(first, b.normal((100,)))
    assert not torch.isin(a.normal((100,)), first).any()


def test_the_global_seed_does_not_reach_the_noise():
    torch.manual_seed(0)
    np.random.seed(0)
    first = NoiseSource().normal((10,))
    torch.manual_seed(0)
    np.random.seed(0)
    assert not torch.equal(first, NoiseSource().normal((10,)))


@pytest.mark.parametrize("seed", [0, 7])
def test_a_fixed_seed_repeats_and_taints(seed):
    assert torch.equal(NoiseSource(seed).normal((10,)), NoiseSource(seed).normal((10,)))
    assert NoiseSource(seed).tainted
    assert not NoiseSource().tainted
