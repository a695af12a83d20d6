"""Ledgers of upstream stages are united, and only those of one lineage."""

import pytest

from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account
from dpib.privacy.lineage import merge


def account(*names, sigma=8.0, **changes):
    events = [Charge(name, "gaussian", "", sigma=sigma).event("train", 100, "zero_out") for name in names]
    fields = {"dataset": "toy", "relation": "zero_out", "epsilon": 1.0, "delta": 1e-5, "scopes": {"train": 100}}
    return Account(**{**fields, "events": events, **changes})


def ids(merged):
    return [event.id for event in merged.events]


def test_events_of_all_ancestors_are_united_and_shared_ones_count_once():
    merged = merge([account("query"), account("query", "pretrain")], account("train"))
    assert ids(merged) == ["train/query", "train/pretrain", "train/train"]
    assert merged.spent() == account("query", "pretrain", "train").spent()


def test_the_budget_and_the_accountant_are_the_new_ones():
    merged = merge([account("query", epsilon=5.0, accountant="rdp")], account(epsilon=2.0))
    assert (merged.epsilon, merged.accountant) == (2.0, "pld")


def test_without_ancestors_nothing_changes():
    assert merge([], account("a")) == account("a")


def test_what_is_tainted_or_declared_upstream_stays_so():
    figure = {"name": "fid", "scope": "train", "what": "distance"}
    merged = merge([account(tainted=True, yardstick=[figure]), account(yardstick=[figure])], account())
    assert merged.tainted
    assert len(merged.yardstick) == 1


def test_different_events_under_one_id_are_refused():
    with pytest.raises(BudgetError, match="different events with id 'train/query'"):
        merge([account("query"), account("query", sigma=9.0)], account())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dataset": "other"}, "dataset = other"),
        ({"delta": 1e-6}, "delta = 1e-06"),
        ({"relation": "replace_one"}, "relation = replace_one"),
        ({"scopes": {"train": 100, "val": 5}}, "scopes"),
    ],
)
def test_ledgers_of_another_lineage_are_refused(change, says):
    with pytest.raises(BudgetError, match=says):
        merge([account(**change)], account())


def test_ancestors_that_overspent_the_new_budget_are_refused():
    with pytest.raises(BudgetError, match=r"already spent epsilon = .* over the budget of 0\.1"):
        merge([account("query")], account(epsilon=0.1))
