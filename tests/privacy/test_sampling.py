"""Poisson sampling: every record on its own, every step on its own, and truncation without favourites."""

import numpy as np
import torch
from scipy import stats

from dpib.privacy.rng import NoiseSource
from dpib.privacy.sampling import poisson

N, RATE, STEPS = 200, 0.1, 2000


def masks(cap=None, seed=0):
    noise = NoiseSource(seed)
    return torch.stack([poisson(noise, N, RATE, cap) for _ in range(STEPS)]).double().numpy()


def dispersion(drawn):
    """Return the variance of participation counts over the binomial's: 1 for Poisson sampling, 0 for shuffling."""
    return drawn.sum(0).var(ddof=1) / (STEPS * RATE * (1 - RATE))


def test_participation_is_binomial():
    drawn = masks()
    assert abs(drawn.mean() - RATE) < 4 * np.sqrt(RATE * (1 - RATE) / drawn.size)
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], N - 1) / (N - 1)
    assert low < dispersion(drawn) < high


def test_batch_sizes_have_the_binomial_variance():
    sizes = masks().sum(1)
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], STEPS - 1) / (STEPS - 1)
    assert low < sizes.var(ddof=1) / (N * RATE * (1 - RATE)) < high


def test_steps_are_uncorrelated():
    drawn = masks() - RATE
    for lag in (1, 2, round(1 / RATE)):
        correlation = (drawn[lag:] * drawn[:-lag]).mean() / (RATE * (1 - RATE))
        assert abs(correlation) < 4 / np.sqrt(drawn[lag:].size)


def test_these_statistics_tell_a_shuffled_loader():
    size = round(N * RATE)
    generator = np.random.default_rng(0)
    drawn = np.zeros((STEPS, N))
    for step in range(STEPS):
        if step % (N // size) == 0:
            order = generator.permutation(N)
        drawn[step, order[step % (N // size) * size :][:size]] = 1
    assert dispersion(drawn) < 1e-9
    assert drawn.sum(1).var() == 0


def test_a_cap_holds_and_favours_nobody():
    cap = round(N * RATE)
    plain, capped = masks(), masks(cap)
    sizes = capped.sum(1)
    assert sizes.max() == cap
    assert abs((sizes == cap).mean() - (plain.sum(1) >= cap).mean()) < 0.06
    counts = capped.sum(0)
    assert stats.chisquare(counts).pvalue > 1e-4
    halves = counts[: N // 2].sum() / counts.sum()
    assert abs(halves - 0.5) < 4 * 0.5 / np.sqrt(counts.sum())


def test_a_cap_that_is_never_reached_changes_nothing():
    assert np.array_equal(masks(), masks(cap=N))
