"""A ledger is recomputed from its events alone, and a wrong claim is found."""

import pytest

from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account
from dpib.privacy.stopping import Stopping
from dpib.privacy.verify import verify


def account(*charges, budget=10.0, scope="train", **changes):
    events = [charge.event(scope, 1000, changes.get("relation", "zero_out")) for charge in charges]
    fields = {"dataset": "toy", "relation": "zero_out", "delta": 1e-5, "scopes": {"train": 1000, "val": 1000}}
    return Account(**{**fields, "epsilon": budget, "events": events, **changes})


STEPS = Charge("steps", "gaussian", "noised gradients", sigma=2.0, rate=0.1, count=100)
PICK = Charge("pick", "noisy_max", "best epoch", epsilon=0.5)


def test_a_true_statement_is_confirmed_by_three_accountants():
    verdict = verify(account(STEPS), 2.3374)
    text = "\n".join(verdict.lines)
    assert verdict.faults == ()
    assert "epsilon 2.3374 (privacy loss distributions), 2.58057 (rdp)" in text
    assert "PRV says between 2.327" in text


def test_a_statement_below_the_cost_is_exceeded():
    assert "is stated, but the releases cost 2.337" in verify(account(STEPS), 2.0).faults[0]


def test_a_statement_above_the_cost_does_not_belong_to_the_ledger():
    assert "do not match" in verify(account(STEPS), 3.0).faults[0]


def test_events_over_the_budget_are_found_whatever_is_stated():
    assert "more than the budget 1" in verify(account(STEPS, budget=1.0), None).faults[0]


def test_a_fixed_seed_voids_every_statement():
    assert "nothing is private" in verify(account(STEPS, tainted=True), 2.3374).faults[0]


def test_what_an_accountant_cannot_carry_is_said_and_no_fault():
    trials = Charge("sweep", "random_stopping", "best of some", base=(STEPS,), stopping=Stopping.poisson(3))
    for charge in (PICK, trials):
        verdict = verify(account(charge), None)
        assert verdict.faults == ()
        assert any("no PRV interval" in line for line in verdict.lines)


def test_it_says_what_is_covered_and_what_is_not():
    yardstick = [{"name": "fid", "scope": "train", "what": "distance"}]
    lines = verify(account(STEPS, yardstick=yardstick), None).lines
    assert "covered: train/steps (gaussian, 100 time(s)): noised gradients" in lines
    assert "not covered: fid on train images: distance" in lines


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_the_claim_is_judged_by_the_accountant_of_the_ledger(accountant):
    kept = account(STEPS, accountant=accountant)
    assert verify(kept, kept.spent()).faults == ()
    assert kept.spent() > 2.34
