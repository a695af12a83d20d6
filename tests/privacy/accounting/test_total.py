"""The three accountants against each other, and each against what it must refuse."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from dpib.privacy import accounting
from dpib.privacy.accounting import pld, prv, rdp
from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Charge
from dpib.privacy.stopping import Stopping


def event(kind="gaussian", *, name="a", relation="zero_out", **price):
    return Charge(name, kind, "", **price).event("train", 1000, relation)


@settings(max_examples=10, deadline=None)
@given(st.floats(2, 30), st.sampled_from([1.0, 0.3, 0.05, 0.005]), st.integers(1, 20), st.sampled_from([1e-4, 1e-6]))
def test_pld_lies_below_rdp_and_inside_the_prv_interval(sigma, rate, count, delta):
    events = [event(sigma=sigma, rate=rate, count=count), event(sigma=5.0, rate=0.2, count=3, name="b")]
    tight = accounting.composed(events, delta)
    lower, _, upper = prv.interval(events, delta)
    assert lower <= tight <= upper
    assert tight <= accounting.composed(events, delta, "rdp") * (1 + 1e-6)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(lambda s: event(sigma=s), st.floats(1, 20)),
            st.builds(lambda s, q: event(sigma=s, rate=q, count=20), st.floats(1, 20), st.sampled_from([0.1, 0.5])),
            st.builds(lambda s: event("laplace", scale=s, count=3), st.floats(2, 30)),
            st.builds(lambda e: event("noisy_max", epsilon=e), st.floats(0.01, 1)),
            st.builds(lambda e: event("pure", epsilon=e, count=4), st.floats(0.01, 0.3)),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["zero_out", "replace_one"]),
)
def test_pld_lies_below_rdp_for_mixed_lists_under_both_relations(events, relation):
    events = [e.model_copy(update={"relation": relation}) for e in events]
    assert accounting.composed(events, 1e-5) <= accounting.composed(events, 1e-5, "rdp") * (1 + 1e-4)


@pytest.mark.parametrize("accountant", ["pld", "rdp", "prv"])
def test_replace_one_doubles_a_gaussian_once_by_every_accountant(accountant):
    doubled = accounting.composed([event(sigma=4.0, relation="replace_one")], 1e-5, accountant)
    assert doubled == pytest.approx(accounting.composed([event(sigma=2.0)], 1e-5, accountant), rel=1e-6)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_replace_one_doubles_a_laplace_and_leaves_a_stated_epsilon(accountant):
    def cost(kind, relation, **price):
        return accounting.composed([event(kind, relation=relation, count=30, **price)], 1e-5, accountant)

    doubled = cost("laplace", "replace_one", scale=40.0)
    assert doubled == pytest.approx(cost("laplace", "zero_out", scale=20.0), rel=1e-9)
    assert cost("pure", "replace_one", epsilon=0.1) == cost("pure", "zero_out", epsilon=0.1)


def test_replace_one_of_a_sampled_gaussian_by_rdp_lies_above_pld_and_within_reason():
    sampled = [event(sigma=2.0, rate=0.1, count=100, relation="replace_one")]
    tight, loose = (accounting.composed(sampled, 1e-5, a) for a in ("pld", "rdp"))
    assert tight < loose < 1.15 * tight


def test_the_quadrature_of_a_swapped_record_agrees_with_the_closed_form():
    """At a rate of nearly 1 the pair is N(1, s^2) against N(-1, s^2), whose divergence is 2 a / s^2."""
    found = rdp._poisson_swapped(1 - 1e-13, 3.0)
    few = rdp.ORDERS <= 5
    np.testing.assert_allclose(found[few], 2 * rdp.ORDERS[few] / 9, rtol=1e-6)


def test_many_tiny_pure_events_do_not_pay_for_the_grid():
    """A grid of 1e-4 would turn each 0.00101 into 0.0011; by the binomial law they cost less than by RDP."""
    tiny = [event("pure", epsilon=0.00101, count=100)]
    assert accounting.composed(tiny, 1e-5) == pld.epsilon(tiny, 1e-5) < 0.97 * accounting.composed(tiny, 1e-5, "rdp")


def test_many_small_selections_cost_less_than_their_sum():
    many = [event("laplace", scale=10.0, count=50)]
    assert accounting.composed(many, 1e-5) < 0.75 * 5.0


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (event("laplace", scale=3.0), "Gaussians only"),
        (event("pure", epsilon=0.1), "Gaussians only"),
        (event("random_stopping", base=(Charge("t", "pure", "", epsilon=0.1),), stopping=Stopping.poisson(2)), "only"),
        (event(sigma=3.0, rate=0.1, cap=150), "truncated"),
        (event(sigma=3.0, rate=0.1, relation="replace_one"), "replace_one"),
    ],
)
def test_prv_refuses_by_name_what_it_cannot_carry(refused, why):
    with pytest.raises(BudgetError, match=rf"prv accountant cannot carry 'train/a'.*{why}"):
        accounting.composed([refused], 1e-5, "prv")


def test_one_event_that_only_rdp_carries_takes_its_whole_group_there_and_no_other():
    fixed = event("gaussian_wor", sigma=20.0, rate=0.01, count=10)
    beside = event(sigma=10.0, rate=0.1, count=5, name="b")
    elsewhere = Charge("c", "gaussian", "", sigma=1.0, rate=0.5, count=5).event("val", 1000, "zero_out")
    group = [fixed, beside]
    assert accounting.totals(group, 1e-5)["train"].accountant == "rdp"
    assert accounting.composed(group, 1e-5) == accounting.composed(group, 1e-5, "rdp")
    both = accounting.totals([*group, elsewhere], 1e-5)
    assert (both["train"].accountant, both["val"].accountant) == ("rdp", "pld")
    assert both["val"].epsilon == accounting.composed([elsewhere], 1e-5)


def test_a_total_names_its_accountant_and_relation():
    for accountant in ("rdp", "prv"):
        assert accounting.totals([event(sigma=2.0)], 1e-5, accountant)["train"].accountant == accountant
    swapped = accounting.totals([event(sigma=2.0, relation="replace_one")], 1e-5)["train"]
    assert (swapped.accountant, swapped.relation) == ("exact", "replace_one")


def trials(law, *base):
    return event("random_stopping", base=base, stopping=law)


PURE = Charge("t", "pure", "", epsilon=0.5)


@pytest.mark.parametrize(("eta", "times"), [(0.0, 2), (1.0, 3), (0.5, 2.5), (-0.5, 1.5)])
def test_the_best_of_pure_trials_costs_two_plus_eta_times_one(eta, times):
    law = Stopping(law="negative_binomial", eta=eta, gamma=0.01)
    assert accounting.composed([trials(law, PURE)], 1e-9) == pytest.approx(times * 0.5, rel=1e-9)


@pytest.mark.parametrize("law", [Stopping.negative_binomial(7, 0.0), Stopping.negative_binomial(7, 2.0)])
def test_random_stopping_agrees_with_dp_accounting(law):
    base = Charge("t", "gaussian", "", sigma=2.0, rate=0.1, count=50)
    trial = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(2.0)), 50
    )
    theirs = RdpAccountant(rdp.ORDERS).compose(dp_accounting.dp_event.RepeatAndSelectDpEvent(trial, law.mean, law.eta))
    assert accounting.composed([trials(law, base)], 1e-6) == pytest.approx(theirs.get_epsilon(1e-6), rel=1e-6)


def test_a_trial_is_priced_with_all_that_it_releases():
    law = Stopping.negative_binomial(5, 0.0)
    steps, score = Charge("t", "gaussian", "", sigma=4.0, rate=0.1, count=50), Charge("s", "laplace", "", scale=5.0)
    alone = accounting.composed([trials(law, steps)], 1e-6)
    assert alone < accounting.composed([trials(law, steps, score)], 1e-6) < math.inf


def test_rdp_says_nothing_on_standard_error(capfd):
    rdp._poisson.cache_clear()
    accounting.composed([event(sigma=0.4, rate=0.01, count=3)], 1e-5, "rdp")
    assert capfd.readouterr().err == ""
