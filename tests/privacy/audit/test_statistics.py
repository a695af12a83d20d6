"""The tests behind the audits: silent on what is right, loud on what is wrong."""

import math

import numpy as np
import pytest
import torch

from dpib.privacy.audit import statistics
from dpib.privacy.audit.noise import audit_noise


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(20))
def test_standard_normal_noise_passes(seed):
    assert all(f.passed for f in audit_noise("x", [normal(3000, seed=2 * seed), normal(3000, seed=2 * seed + 1)]))


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (lambda a: 0.9 * a, "variance"),
        (lambda a: a + 0.1, "mean"),
        (lambda a: torch.cat([a[:2000], 0 * a[2000:2064], a[2064:]]), "weakest row"),
        (lambda a: a.sign() * (a.abs() > 0.6745) * 2**0.5, "normal shape"),
    ],
)
def test_spoilt_noise_fails_where_it_should(spoil, check):
    found = audit_noise("x", [spoil(normal(6000)), spoil(normal(6000, seed=1))])
    assert any(not f.passed and f.check.startswith(check) for f in found)


def test_repeated_noise_fails():
    found = audit_noise("x", [normal(3000), normal(3000)])
    assert [f.check.split(",")[0] for f in found if not f.passed] == ["draws correlated"]


def test_the_lower_bound_on_epsilon_is_one():
    draw = np.random.default_rng(0)
    here, there = draw.normal(1, 1, 4000), draw.normal(0, 1, 4000)  # epsilon 4.377 at delta 1e-5
    assert 1.0 < statistics.epsilon_lower_bound(here, there, 1e-5) < 4.377
    assert statistics.epsilon_lower_bound(there, there[::-1].copy(), 1e-5) < 0.2


def test_binomial_counts_pass_and_shuffled_ones_fail():
    draw = np.random.default_rng(1)
    counts = torch.from_numpy(draw.binomial(60, 0.1, 400))
    assert abs(statistics.dispersion_deviation(counts, 60, 0.1)) < 4
    assert statistics.dispersion_deviation(torch.full((400,), 6), 60, 0.1) < -8
    assert statistics.rate_deviation(2 * 2400, 24000, 0.1) > 20
    assert statistics.rate_deviation(9, 10, 1.0) == math.inf
