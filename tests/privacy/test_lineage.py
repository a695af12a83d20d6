"""What a run starts from brings its ledger along, if it is about the same images."""

import pytest

from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.lineage import inherit


def account(*names, sigma=8.0, **changes):
    events = [Charge(name, "gaussian", "", sigma=sigma).event("train", 100, "zero_out") for name in names]
    fields = {"dataset": "toy", "relation": "zero_out", "epsilon": 1.0, "delta": 1e-5, "scopes": {"train": 100}}
    return Account(**{**fields, "events": events, **changes})


def ids(found):
    return [event.id for event in found.events]


def test_a_repeated_training_is_paid_twice(tmp_path):
    once = account("steps")
    ledger = Ledger.open(tmp_path / "ledger.json", inherit(once, account()))
    ledger.reserve([Charge("steps", "gaussian", "", sigma=8.0)], "train")
    assert ids(ledger.account) == ["train/before/steps", "train/steps"]
    assert ledger.account.spent() == account("a", "b").spent() > once.spent()


def test_a_third_one_is_paid_thrice(tmp_path):
    twice = inherit(account("steps"), account()).model_copy()
    twice.events.append(account("steps").events[0])
    assert ids(inherit(twice, account())) == ["train/before/before/steps", "train/before/steps"]


def test_the_budget_and_the_accountant_are_the_new_ones():
    found = inherit(account("query", epsilon=5.0, accountant="rdp"), account(epsilon=2.0))
    assert (found.epsilon, found.accountant) == (2.0, "pld")


def test_what_is_tainted_or_declared_upstream_stays_so():
    figure = {"name": "fid", "scope": "train", "what": "distance"}
    found = inherit(account(tainted=True, yardstick=[figure]), account())
    assert found.tainted
    assert len(found.yardstick) == 1


def test_a_ledger_about_other_images_changes_nothing():
    assert inherit(account("query", dataset="other"), account()) == account()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"delta": 1e-6}, "delta = 1e-06"),
        ({"relation": "replace_one"}, "relation = replace_one"),
        ({"scopes": {"train": 100, "val": 5}}, "scopes"),
    ],
)
def test_the_same_images_under_other_terms_are_refused(change, says):
    with pytest.raises(BudgetError, match=says):
        inherit(account(**change), account())


def test_a_start_that_overspent_the_new_budget_is_refused():
    with pytest.raises(BudgetError, match=r"already spent epsilon = .* over the budget of 0\.1"):
        inherit(account("query"), account(epsilon=0.1))
