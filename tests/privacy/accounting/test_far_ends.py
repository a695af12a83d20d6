"""Where float64, a grid or memory could run out: tiny deltas, millions of runs, hardly any noise."""

import math
import tracemalloc

import pytest
from scipy.optimize import brentq
from scipy.stats import binom, norm

from dpib.privacy import accounting, calibrate
from dpib.privacy.accounting import losses, pld
from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account
from dpib.privacy.verify import verify
from tests.privacy.accounting import contour


def event(kind="gaussian", *, name="a", relation="zero_out", **price):
    return Charge(name, kind, "", **price).event("train", 60_000, relation)


def steps(sigma, rate, count, **more):
    return event(sigma=sigma, rate=rate, count=count, **more)


@pytest.mark.parametrize(
    ("sigma", "rate", "count", "delta", "right"),
    [
        (4.737211268641406, 0.01, 5_000, 1e-12, 0.999406),
        (4.737211268641406, 0.01, 5_000, 1e-13, 1.05061),
        (4.737211268641406, 0.01, 5_000, 1e-14, 1.09964),
        (4.0, 1e-3, 10**6, 1e-6, 1.07941),
        (1.5, 1e-3, 10**6, 1e-5, 3.14250),
        (10.0, 1e-3, 10**7, 1e-5, 1.20275),
        (1.0, 1e-5, 10**5, 1e-6, 0.0131215),
        (0.8, 1e-6, 10**6, 1e-6, 0.005709),
    ],
)
def test_sampled_gaussians_cost_what_is_right_to_a_few_hundred_thousandths_of_it(sigma, rate, count, delta, right):
    found = accounting.composed([steps(sigma, rate, count)], delta)
    assert right * (1 - 1e-5) <= found <= right * (1 + 5e-5) + 2e-5 * (right < 0.01)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("rate", "sigma", "count", "delta"),
    [
        (0.01, 4.737211268641406, 5_000, 1e-14),
        (0.0525, 1.602, 160, 1e-13),
        (0.1, 2.0, 100, 1e-5),
        (0.03, 16.0, 10**6, 1e-12),
        (1e-3, 30.0, 10**8, 1e-9),
    ],
)
def test_never_below_another_way_to_compute_it_and_hardly_above(rate, sigma, count, delta, swapped):
    relation = "replace_one" if swapped else "zero_out"
    right = contour.epsilon(rate, sigma, count, delta, swapped)
    found = accounting.composed([steps(sigma, rate, count, relation=relation)], delta)
    assert right * (1 - 1e-9) <= found <= right * (1 + 2e-5)


@pytest.mark.parametrize("delta", [1e-3, 1e-8, 1e-14])
@pytest.mark.parametrize(("rate", "sigma"), [(0.3, 0.7), (0.01, 0.4), (0.9, 5.0)])
def test_one_sampled_gaussian_against_its_closed_form(rate, sigma, delta):
    def divergence(epsilon):
        cut = math.log((math.exp(epsilon) - 1 + rate) / rate)
        tails = norm.sf(sigma * cut - 0.5 / sigma), norm.sf(sigma * cut + 0.5 / sigma)
        return rate * tails[0] - (math.exp(epsilon) - 1 + rate) * tails[1]

    right = brentq(lambda e: divergence(e) - delta, 1e-9, 200, xtol=1e-13)
    assert right * (1 - 1e-9) <= accounting.composed([steps(sigma, rate, 1)], delta) <= right * (1 + 2e-5)


@pytest.mark.parametrize(
    ("epsilon", "count", "delta", "right"), [(0.01, 1_000, 1e-6, 1.36544), (0.005, 2_000, 1e-5, 0.81918)]
)
def test_noisy_maxima_compose_by_the_binomial_law(epsilon, count, delta, right):
    truth = 1 / (1 + math.exp(-epsilon))

    def divergence(total):
        return sum(
            binom.pmf(k, count, truth) * -math.expm1(total - epsilon * (2 * k - count))
            for k in range(count // 2, count + 1)
            if epsilon * (2 * k - count) > total
        )

    exact = brentq(lambda e: divergence(e) - delta, 0.1, 5, xtol=1e-6)
    assert exact == pytest.approx(right, abs=1e-5)
    separate = [event("noisy_max", epsilon=epsilon, name=f"s{i}") for i in range(count)]
    assert exact - 1e-6 <= accounting.composed(separate, delta) <= exact + 1e-4


def test_small_laplace_releases_approach_the_gaussian_that_they_sum_up_to():
    found = accounting.composed([event("laplace", scale=1e4, count=10**8)], 1e-6)
    assert pld.exact_gaussian([event(sigma=1.0)], 1e-6) <= found * (1 + 1e-4) <= 1.01 * found


def test_equal_events_are_accounted_for_once(monkeypatch):
    asked = []
    monkeypatch.setattr(losses, "of", lambda e, reach, of=losses.of: asked.append(e) or of(e, reach))
    separate = [steps(5.0, 0.1, 3, name=f"step{i}") for i in range(250)]
    assert accounting.composed(separate, 1e-5) == accounting.composed([steps(5.0, 0.1, 750)], 1e-5)
    assert len(asked) == 2


def test_many_different_events_take_little_memory():
    ledger = [steps(5.0 + i / 100, 0.01, 100, name=f"step{i}") for i in range(30)]
    accounting.composed(ledger[:2], 1e-5)
    tracemalloc.start()
    accounting.composed(ledger, 1e-5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e8


CORNERS = [
    (0.001, 1e-9, 0.1, 10**8),
    (1.0, 1e-12, 1e-3, 10**8),
    (100.0, 1e-5, 0.1, 10**8),
    (100.0, 1e-12, 1e-3, 1),
]


@pytest.mark.parametrize(("epsilon", "delta", "rate", "count"), CORNERS)
def test_a_calibration_at_the_far_ends_takes_few_questions(epsilon, delta, rate, count, monkeypatch):
    asked = []
    monkeypatch.setattr(calibrate, "spent", lambda e, d, a: asked.append(a) or accounting.spent(e, d, a))
    (charge,) = solve([Charge("steps", "gaussian", "", rate=rate, count=count)], epsilon, delta)
    assert epsilon * (1 - 1e-3) <= accounting.composed([steps(charge.sigma, rate, count)], delta) <= epsilon
    assert asked.count("pld") <= 12
    assert asked.count("rdp") <= 20


def solve(plan, epsilon, delta):
    return calibrate.solve(plan, scope="train", n=60_000, relation="zero_out", epsilon=epsilon, delta=delta)


@pytest.mark.parametrize(
    ("charge", "epsilon", "delta", "says"),
    [
        (Charge("a", "gaussian", ""), 1.0, 1e-15, "delta = 1e-15 .* choose at least 1e-14"),
        (Charge("a", "gaussian", "", rate=0.1, count=9), 1e6, 1e-5, r"epsilon = 1e\+06 protects nothing: choose"),
        (Charge("a", "gaussian", "", rate=1e-6), 1.0, 1e-5, "hardly any noise costs less .*: lower epsilon or delta"),
        (Charge("a", "gaussian", "", rate=0.1, count=10**12), 1.0, 1e-5, r"runs 1e\+12 times, .* choose fewer"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_with_what_to_choose(charge, epsilon, delta, says):
    with pytest.raises(BudgetError, match=says):
        solve([charge], epsilon, delta)


@pytest.mark.parametrize(
    ("charge", "right"),
    [
        (Charge("a", "gaussian", "", sigma=1e-9), 5e17),
        (Charge("a", "gaussian", "", sigma=1e-9, rate=0.1, count=100), 25 * 5e17),
        (Charge("a", "gaussian", "", sigma=1e5, rate=0.3, count=10**10), 1.1318),
        (Charge("a", "laplace", "", scale=1e-9), 1e9),
    ],
)
def test_a_ledger_of_hardly_any_noise_or_of_ten_billion_runs_is_verified(charge, right):
    account = Account(dataset="toy", relation="zero_out", epsilon=1e20, delta=1e-5, scopes={"train": 60_000})
    account.events.append(charge.event("train", 60_000, "zero_out"))
    assert account.spent() == pytest.approx(right, rel=1e-3)
    assert verify(account, None).faults == ()


@pytest.mark.parametrize("price", [{"sigma": 1e-300}, {"sigma": 1e300}, {"sigma": 1.0, "rate": 0.1, "count": 10**12}])
def test_a_ledger_that_no_accountant_can_carry_is_refused_in_one_line(price):
    with pytest.raises(BudgetError, match="choose"):
        accounting.composed([event(**price)], 1e-5)
