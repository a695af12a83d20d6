"""Events are white-listed, consistent with their kind, and readable in old files."""

import json

import pytest

from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Charge, Event
from dpib.privacy.ledger import Account
from dpib.privacy.stopping import Stopping

LAW = Stopping.negative_binomial(5, 0.0)
TRIAL = Charge("trial", "gaussian", "one training", sigma=4.0, rate=0.1, count=10, cap=30)
ALL = (
    Charge("a", "gaussian", "", sigma=1.0),
    TRIAL,
    Charge("b", "gaussian_wor", "", sigma=1.0, rate=0.5),
    Charge("c", "laplace", "", scale=1.0),
    Charge("d", "noisy_max", "", epsilon=1.0),
    Charge("e", "pure", "", epsilon=1.0),
    Charge("f", "random_stopping", "", base=(TRIAL, Charge("score", "laplace", "", scale=2.0)), stopping=LAW),
)


def event(charge):
    return charge.event("train", 100, "zero_out")


@pytest.mark.parametrize("charge", ALL, ids=lambda c: c.kind)
def test_every_kind_survives_the_ledger(charge):
    fields = {"dataset": "toy", "relation": "zero_out", "epsilon": 1e3, "delta": 1e-5, "scopes": {"train": 100}}
    account = Account(**fields, events=[event(charge)])
    assert Account.parse(account.text()) == account


def test_a_ledger_of_the_first_version_is_still_read():
    old = {
        "format": "dpib-ledger-1", "dataset": "toy", "unit": "one image with its label", "relation": "zero_out",
        "epsilon": 1.0, "delta": 1e-5, "scopes": {"train": 100, "val": 10}, "yardstick": [], "tainted": False,
        "events": [
            {"id": "train/a", "kind": "gaussian", "scope": "train", "n": 100, "relation": "zero_out", "sigma": 5.0,
             "epsilon": None, "rate": 1.0, "count": 1, "partition": "", "label": "sum"},
            {"id": "val/s", "kind": "noisy_max", "scope": "val", "n": 10, "relation": "zero_out", "sigma": None,
             "epsilon": 0.5, "rate": 1.0, "count": 1, "partition": "", "label": "choice"},
        ],
    }  # fmt: skip
    account = Account.parse(json.dumps(old))
    assert account.accountant == "pld"
    assert account.spent() == pytest.approx(0.7255, rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "gaussian_wor", "epsilon": 1.0}, "needs a sigma"),
        ({"kind": "laplace", "sigma": 1.0}, "needs a scale"),
        ({"kind": "laplace", "scale": 1.0, "rate": 0.5}, "sub-sampled laplace"),
        ({"kind": "pure", "epsilon": 1.0, "rate": 0.5}, "sub-sampled pure"),
        ({"kind": "pure", "epsilon": 1.0, "scale": 1.0}, "no other price"),
        ({"kind": "gaussian", "sigma": 1.0, "cap": 5}, "cap truncates a Poisson-sampled"),
        ({"kind": "gaussian", "sigma": 1.0, "rate": 0.5, "cap": 11}, "at most n records"),
        ({"kind": "laplace", "scale": 1.0, "cap": 5}, "cap truncates"),
        ({"kind": "random_stopping", "stopping": LAW}, "base is what one trial"),
        ({"kind": "gaussian", "sigma": 1.0, "base": (event(ALL[0]),)}, "base is what one trial"),
        ({"kind": "random_stopping", "stopping": LAW, "base": (event(ALL[0]),)}, "does not touch the same records"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(wrong, says):
    with pytest.raises(ValueError, match=says):
        Event(**{"id": "train/x", "scope": "train", "n": 10, "relation": "zero_out", **wrong})


def test_a_search_within_a_search_is_refused():
    with pytest.raises(ValueError, match="within another"):
        event(Charge("outer", "random_stopping", "", base=(ALL[-1],), stopping=LAW))


def test_a_free_sigma_is_found_also_within_trials():
    free = Charge("f", "random_stopping", "", base=(Charge("t", "gaussian", ""), ALL[3]), stopping=LAW)
    assert free.free
    fixed = free.at(3.0)
    assert not fixed.free
    assert fixed.base[0].sigma == 3.0
    assert fixed.base[1] == ALL[3]
    with pytest.raises(ValueError, match="needs a sigma"):
        event(free)


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.update(n=99),
        lambda e: e.update(relation="replace_one"),
        lambda e: e.update(id="val/a", scope="val"),
    ],
)
def test_an_event_of_other_records_than_the_accounts_is_refused(change):
    fields = {"dataset": "toy", "relation": "zero_out", "epsilon": 10.0, "delta": 1e-5, "scopes": {"train": 100}}
    content = json.loads(Account(**fields, events=[event(ALL[0])]).text())
    change(content["events"][0])
    with pytest.raises(BudgetError, match="not a ledger of this format"):
        Account.parse(json.dumps(content))


def test_a_price_for_a_part_of_the_records_is_refused():
    whole = event(Charge("a", "gaussian", "", sigma=2.0)).model_dump(mode="json")
    with pytest.raises(ValueError, match="partition"):
        Event.model_validate_json(json.dumps({**whole, "partition": "shard-1"}))
    assert Event.model_validate_json(json.dumps({**whole, "partition": ""})) == event(
        Charge("a", "gaussian", "", sigma=2.0)
    )
