"""Epsilon against closed forms and published tables."""

import math

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from dpib.privacy import accounting
from dpib.privacy.events import Charge, Event


def gaussian(sigma, *, rate=1.0, count=1, scope="train", name="a", relation="zero_out"):
    charge = Charge(name, "gaussian", "", sigma=sigma, rate=rate, count=count)
    return charge.event(scope, 1000, relation)


def selection(epsilon, *, scope="val", name="s", relation="zero_out"):
    return Charge(name, "noisy_max", "", epsilon=epsilon).event(scope, 1000, relation)


def exact_gaussian(sigma, delta):
    """Balle and Wang 2018, theorem 8, solved for epsilon."""

    def excess(e):
        return norm.cdf(0.5 / sigma - e * sigma) - math.exp(e) * norm.cdf(-0.5 / sigma - e * sigma) - delta

    return brentq(excess, 0, 200)


@pytest.mark.parametrize(
    ("sigma", "n", "epsilon"),
    [(4.119, 55_000, 1), (0.5322, 55_000, 10), (4.073, 45_000, 1), (0.5134, 21_000, 10), (4.469, 269_538, 1)],
)
def test_one_gaussian_release_costs_what_the_published_table_says(sigma, n, epsilon):
    assert accounting.composed([gaussian(sigma)], 1 / (n * math.log(n))) == pytest.approx(epsilon, rel=3e-4)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0, 40.0])
def test_gaussian_is_exact(sigma):
    assert accounting.composed([gaussian(sigma)], 1e-5) == pytest.approx(exact_gaussian(sigma, 1e-5), abs=1e-6)


def test_gaussians_compose_like_one_of_smaller_sigma():
    many = [gaussian(4.0, count=3), gaussian(2.0, name="b")]
    together = 1 / math.sqrt(3 / 16 + 1 / 4)
    assert accounting.composed(many, 1e-6) == pytest.approx(exact_gaussian(together, 1e-6), abs=1e-6)


def test_the_distribution_agrees_with_the_closed_form_from_above():
    mixed = [gaussian(2.0), selection(1e-9, scope="train")]
    exact = exact_gaussian(2.0, 1e-5)
    assert exact <= accounting.composed(mixed, 1e-5) <= exact + 2e-3


def test_replace_one_doubles_the_distance_once():
    assert accounting.composed([gaussian(2.0, relation="replace_one")], 1e-5) == pytest.approx(
        exact_gaussian(1.0, 1e-5), abs=1e-6
    )


def test_replace_one_of_a_subsampled_gaussian():
    event = gaussian(2.0, rate=0.1, count=100, relation="replace_one")
    assert accounting.composed([event], 1e-5) == pytest.approx(4.37, abs=0.01)
    assert accounting.composed([gaussian(2.0, rate=0.1, count=100)], 1e-5) == pytest.approx(2.34, abs=0.01)


def test_selections_add_up_to_their_epsilons_and_not_beyond():
    four = [selection(0.25, name=f"s{i}") for i in range(4)]
    assert 1.0 - 1e-4 < accounting.composed(four, 1e-6) <= 1.0


def test_scopes_take_the_maximum():
    events = [gaussian(2.0), selection(1.5)]
    separate = [accounting.composed([e], 1e-5) for e in events]
    assert accounting.spent(events, 1e-5) == pytest.approx(max(separate))


def test_epsilon_falls_with_sigma_and_rises_with_rate_and_count():
    def epsilon(sigma=2.0, rate=0.1, count=50):
        return accounting.composed([gaussian(sigma, rate=rate, count=count)], 1e-5)

    assert epsilon(sigma=3.0) < epsilon() < epsilon(sigma=1.5)
    assert epsilon(rate=0.05) < epsilon() < epsilon(rate=0.2)
    assert epsilon(count=25) < epsilon() < epsilon(count=100)


def test_mixed_relations_do_not_compose():
    with pytest.raises(ValueError, match="different neighbouring relations"):
        accounting.composed([gaussian(1.0), gaussian(1.0, name="b", relation="replace_one")], 1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "gaussian", "epsilon": 1.0},
        {"kind": "gaussian", "sigma": 1.0, "epsilon": 1.0},
        {"kind": "gaussian", "sigma": -1.0},
        {"kind": "noisy_max", "sigma": 1.0},
        {"kind": "noisy_max", "epsilon": 1.0, "rate": 0.5},
        {"kind": "laplace", "epsilon": 1.0},
        {"kind": "gaussian", "sigma": 1.0, "scope": "test"},
        {"kind": "gaussian", "sigma": 1.0, "scope": "val"},
        {"kind": "gaussian", "sigma": float("nan")},
        {"kind": "gaussian", "sigma": 1.0, "extra": 1},
    ],
)
def test_a_malformed_event_is_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        Event(**{"id": "train/a", "scope": "train", "n": 10, "relation": "zero_out", **wrong})
