"""The ledger charges before noise, once, never over budget, and reads only what it knows."""

import json

import pytest

from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account, BudgetError, Ledger


def account(**changes):
    fields = {
        "dataset": "toy",
        "relation": "zero_out",
        "epsilon": 1.0,
        "delta": 1e-5,
        "scopes": {"train": 100, "val": 10},
    }
    return Account(**{**fields, **changes})


def release(sigma=5.0, name="a"):
    return Charge(name, "gaussian", "a release", sigma=sigma)


def test_a_charge_is_on_disk_when_reserve_returns(tmp_path):
    ledger = Ledger.open(tmp_path / "ledger.json", account())
    ledger.reserve([release()], "train")
    on_disk = Account.parse((tmp_path / "ledger.json").read_text())
    assert [e.id for e in on_disk.events] == ["train/a"]
    assert on_disk.spent() == pytest.approx(ledger.account.spent())


def test_reserving_again_after_a_crash_costs_nothing(tmp_path):
    Ledger.open(tmp_path / "ledger.json", account()).reserve([release()], "train")
    again = Ledger.open(tmp_path / "ledger.json", account())
    again.reserve([release()], "train")
    assert len(again.account.events) == 1


def test_another_charge_under_a_taken_name_is_refused(tmp_path):
    ledger = Ledger.open(tmp_path / "ledger.json", account())
    ledger.reserve([release()], "train")
    with pytest.raises(BudgetError, match="another event"):
        ledger.reserve([release(sigma=6.0)], "train")


def test_overspending_is_refused_and_leaves_no_trace(tmp_path):
    ledger = Ledger.open(tmp_path / "ledger.json", account())
    ledger.reserve([release()], "train")
    before = (tmp_path / "ledger.json").read_text()
    with pytest.raises(BudgetError, match="over the budget of 1"):
        ledger.reserve([release(name="ok", sigma=50.0), release(name="b", sigma=0.5)], "train")
    assert (tmp_path / "ledger.json").read_text() == before


def test_scopes_are_paid_for_separately(tmp_path):
    ledger = Ledger.open(tmp_path / "ledger.json", account())
    ledger.reserve([release(sigma=3.8)], "train")
    ledger.reserve([Charge(f"s{i}", "noisy_max", "", epsilon=0.25) for i in range(4)], "val")
    assert ledger.account.spent() <= 1.0 * (1 + 1e-9)
    with pytest.raises(BudgetError):
        ledger.reserve([Charge("s5", "noisy_max", "", epsilon=0.25)], "val")


@pytest.mark.parametrize("change", [{"epsilon": 2.0}, {"dataset": "other"}, {"scopes": {"train": 99, "val": 10}}])
def test_a_ledger_is_not_continued_under_other_terms(tmp_path, change):
    Ledger.open(tmp_path / "ledger.json", account())
    with pytest.raises(BudgetError, match="was begun with"):
        Ledger.open(tmp_path / "ledger.json", account(**change))


def test_taint_and_yardstick_are_kept(tmp_path):
    ledger = Ledger.open(tmp_path / "ledger.json", account())
    ledger.taint()
    ledger.declare("fid", "train", "distance")
    ledger.declare("fid", "train", "distance")
    found = Account.parse((tmp_path / "ledger.json").read_text())
    assert found.tainted
    assert len(found.yardstick) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(format="dpib-ledger-9"), "format"),
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d["events"][0].update(kind="dp_accounting.dp_event.GaussianDpEvent"), "kind"),
        (lambda d: d["events"][0].update(sigma=None), "sigma"),
        (lambda d: d["events"][0].update(sigma=-1), "sigma"),
        (lambda d: d["events"].append(d["events"][0]), "twice"),
        (lambda d: d.update(delta=2), "delta"),
    ],
)
def test_a_foreign_ledger_is_checked(tmp_path, change, says):
    Ledger.open(tmp_path / "ledger.json", account()).reserve([release()], "train")
    content = json.loads((tmp_path / "ledger.json").read_text())
    change(content)
    with pytest.raises(BudgetError, match=says):
        Account.parse(json.dumps(content))


def test_text_that_is_no_ledger():
    with pytest.raises(BudgetError, match="not a ledger"):
        Account.parse("{truncated")
