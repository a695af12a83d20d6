"""The number of trials: its law, its mean, and draws that follow it."""

import itertools
import math

import pytest

from dpib.privacy.rng import NoiseSource
from dpib.privacy.stopping import Stopping


def tnb(eta, gamma):
    return Stopping(law="negative_binomial", eta=eta, gamma=gamma)


LAWS = [tnb(0.0, 0.1), tnb(1.0, 0.1), tnb(0.5, 0.05), tnb(-0.5, 0.1), tnb(3.0, 0.2), Stopping.poisson(6.5)]


@pytest.mark.parametrize("law", LAWS)
def test_probabilities_sum_to_one_and_give_the_mean(law):
    terms = list(itertools.islice(law.pmf(), 3000))
    assert math.fsum(terms) == pytest.approx(1, abs=1e-12)
    assert math.fsum(k * p for k, p in enumerate(terms)) == pytest.approx(law.mean, rel=1e-9)


@pytest.mark.parametrize(("eta", "gamma", "mean"), [(0, 0.1, 3.9087), (1, 0.1, 10), (0.5, 0.05, 12.2361)])
def test_means_of_the_paper(eta, gamma, mean):
    assert tnb(float(eta), gamma).mean == pytest.approx(mean, abs=5e-5)


@pytest.mark.parametrize("eta", [-0.5, 0.0, 1.0, 4.0])
@pytest.mark.parametrize("mean", [1.5, 10.0, 300.0])
def test_a_law_of_a_given_mean(eta, mean):
    assert Stopping.negative_binomial(mean, eta).mean == pytest.approx(mean, rel=1e-6)


def test_a_mean_of_one_trial_is_no_search():
    with pytest.raises(ValueError, match="mean above 1"):
        Stopping.negative_binomial(1.0, 0.0)


@pytest.mark.parametrize("law", LAWS)
def test_draws_follow_the_law(law):
    noise = NoiseSource(unsafe_seed=5)
    draws = [law.draw(noise) for _ in range(2000)]
    spread = math.sqrt(sum((d - law.mean) ** 2 for d in draws) / 2000)
    assert sum(draws) / 2000 == pytest.approx(law.mean, abs=4 * spread / math.sqrt(2000))
    assert min(draws) >= (0 if law.mu is not None else 1)
    first = next(itertools.islice(law.pmf(), 1, None))
    assert draws.count(1) / 2000 == pytest.approx(first, abs=0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        {"law": "poisson"},
        {"law": "poisson", "mu": 2.0, "gamma": 0.1},
        {"law": "negative_binomial", "eta": 1.0},
        {"law": "negative_binomial", "eta": -1.0, "gamma": 0.1},
        {"law": "negative_binomial", "eta": 0.0, "gamma": 1.0},
        {"law": "negative_binomial", "eta": 0.0, "gamma": 0.5, "mu": 1.0},
    ],
)
def test_a_malformed_law_is_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        Stopping(**wrong)
