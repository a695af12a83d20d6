"""The solver spends the whole budget and never more."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpib.privacy import accounting, calibrate
from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Charge
from dpib.privacy.stopping import Stopping

WHERE = {"scope": "train", "n": 55_000}


def solve(plan, epsilon, delta=1e-5, relation="zero_out", already=(), accountant="pld"):
    return calibrate.solve(
        plan, relation=relation, epsilon=epsilon, delta=delta, already=already, accountant=accountant, **WHERE
    )


def cost(plan, delta=1e-5, relation="zero_out", already=(), accountant="pld"):
    return accounting.spent([*already, *(c.event("train", 55_000, relation) for c in plan)], delta, accountant)


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.05, 50),
    st.floats(1e-9, 1e-3),
    st.sampled_from(["zero_out", "replace_one"]),
    st.integers(1, 20),
)
def test_gaussian_releases_use_the_budget_to_within_a_thousandth(epsilon, delta, relation, count):
    plan = solve([Charge("a", "gaussian", "", count=count)], epsilon, delta, relation)
    assert epsilon * (1 - 1e-3) <= cost(plan, delta, relation) <= epsilon * (1 + 1e-9)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 10.0])
def test_a_subsampled_mechanism_beside_fixed_charges(epsilon):
    histogram = Charge("histogram", "gaussian", "", sigma=50.0)
    plan = solve([histogram, Charge("steps", "gaussian", "", rate=0.05, count=200)], epsilon)
    assert plan[0] == histogram
    assert epsilon * (1 - 1e-3) <= cost(plan) <= epsilon


def test_what_was_spent_before_counts():
    before = [Charge("query", "gaussian", "", sigma=5.0).event("train", 55_000, "zero_out")]
    alone = solve([Charge("a", "gaussian", "")], 1.0)[0]
    after = solve([Charge("a", "gaussian", "")], 1.0, already=before)
    assert after[0].sigma > alone.sigma
    assert cost(after, already=before) <= 1.0


def test_a_fixed_plan_stays_as_it_is():
    plan = (Charge("a", "gaussian", "", sigma=1000.0),)
    assert solve(plan, 1.0) == plan


def test_no_budget_left_is_said():
    with pytest.raises(ValueError, match="nothing of the budget"):
        solve([Charge("big", "gaussian", "", sigma=0.1), Charge("a", "gaussian", "")], 1.0)


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
@pytest.mark.parametrize("epsilon", [1.0, 10.0])
def test_other_accountants_are_calibrated_for_as_well(accountant, epsilon):
    plan = solve([Charge("steps", "gaussian", "", rate=0.05, count=200)], epsilon, accountant=accountant)
    assert epsilon * (1 - 1e-3) <= cost(plan, accountant=accountant) <= epsilon
    assert cost(plan) < epsilon


def test_a_plan_that_the_accountant_cannot_carry_is_refused_by_name():
    score = Charge("score", "laplace", "", scale=50.0)
    with pytest.raises(BudgetError, match="prv accountant cannot carry 'train/score'"):
        solve([score, Charge("a", "gaussian", "")], 1.0, accountant="prv")


@pytest.mark.parametrize(
    "plan",
    [
        [Charge("shards", "gaussian_wor", "", rate=1e-3, count=500)],
        [Charge("steps", "gaussian", "", rate=0.05, count=200, cap=3000)],
        [
            Charge("search", "random_stopping", "", stopping=Stopping.negative_binomial(5, 0.0),
                   base=(Charge("trial", "gaussian", "", rate=0.05, count=100), Charge("s", "laplace", "", scale=30.0)))
        ],
    ],
    ids=lambda plan: plan[0].name,
)  # fmt: skip
@pytest.mark.parametrize("epsilon", [1.0, pytest.param(4.0, marks=pytest.mark.slow)])
def test_every_kind_of_free_charge_uses_the_budget_to_within_a_thousandth(plan, epsilon):
    assert epsilon * (1 - 1e-3) <= cost(solve(plan, epsilon)) <= epsilon


def test_the_tight_accountant_is_asked_a_handful_of_times_and_once_per_question(monkeypatch):
    asked = []
    monkeypatch.setattr(calibrate, "spent", lambda e, d, a: asked.append(a) or accounting.spent(e, d, a))
    plan = [Charge("steps", "gaussian", "", rate=0.041, count=300)]
    first = solve(plan, 3.0)
    assert asked.count("pld") <= 5
    asked.clear()
    assert solve(plan, 3.0) == first
    assert asked == []


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "count", "sigma"), [(1e-3, 200_002, 0.581), (1e-3, 20_000, 0.452)])
def test_millions_of_small_steps_at_little_noise(rate, count, sigma):
    (charge,) = solve([Charge("steps", "gaussian", "", rate=rate, count=count)], 10.0)
    assert charge.sigma == pytest.approx(sigma, rel=2e-3)
