"""The solver spends the whole budget and never more."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpib.privacy import accounting, calibrate
from dpib.privacy.events import Charge

WHERE = {"scope": "train", "n": 55_000}


def solve(plan, epsilon, delta=1e-5, relation="zero_out", already=()):
    return calibrate.solve(plan, relation=relation, epsilon=epsilon, delta=delta, already=already, **WHERE)


def cost(plan, delta=1e-5, relation="zero_out", already=()):
    return accounting.spent([*already, *(c.event("train", 55_000, relation) for c in plan)], delta)


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
