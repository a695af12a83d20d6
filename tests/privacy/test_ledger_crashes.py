"""Whatever is interrupted wherever: what was seen is charged, once, and the ledger ends as an unbroken run's."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpib.privacy import ledger as module
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account, BudgetError, Ledger

CHARGES = [Charge(f"r{i}", "gaussian", "", sigma=4.0 + i) for i in range(6)]


class Killed(Exception):
    """The process is gone."""


def account(budget=1.0):
    return Account(dataset="toy", relation="zero_out", epsilon=budget, delta=1e-5, scopes={"train": 100})


def dying(original, when):
    """Return a write that dies before, half-way through or after it reached the disk."""

    def write(path, text):
        if when == "torn":
            # The temporary file is torn, never the ledger: that is what replacing it in one step is for.
            path.with_name(".ledger.1.tmp.json").write_text(text[: len(text) // 2])
        elif when == "after":
            original(path, text)
        raise Killed

    return write


actions = st.lists(
    st.tuples(st.sampled_from(range(len(CHARGES))), st.sampled_from(["runs", "before", "torn", "after", "resumes"])),
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(actions, st.sampled_from([0.6, 1.0, 50.0]))
def test_random_charges_kills_and_resumptions(steps, budget):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path, original = Path(folder) / "ledger.json", module.write_text
        book, seen = Ledger.open(path, account(budget)), set()
        for which, what in steps:
            charge = CHARGES[which]
            if what == "resumes":
                book = Ledger.open(path, account(budget))
                continue
            if what != "runs":
                patch.setattr(module, "write_text", dying(original, what))
            try:
                book.reserve([charge], "train")
                seen.add(f"train/{charge.name}")  # from here on noise may be drawn and seen
            except Killed:
                patch.setattr(module, "write_text", original)
                book = Ledger.open(path, account(budget))
            except BudgetError:
                pass
            patch.setattr(module, "write_text", original)
            on_disk = Account.parse(path.read_text())
            ids = [event.id for event in on_disk.events]
            assert seen <= set(ids), "a release was seen that the ledger does not hold"
            assert len(ids) == len(set(ids)), "a release was charged twice"
            assert on_disk.spent() <= budget * (1 + 1e-9), "the budget was overspent"
        unbroken = Ledger.open(Path(folder) / "unbroken.json", account(budget))
        final = Account.parse(path.read_text())
        for event in final.events:
            unbroken.reserve([CHARGES[int(event.id.removeprefix("train/r"))]], "train")
        assert unbroken.account == final


def test_a_charge_that_could_not_be_written_is_not_believed_to_be_there(tmp_path, monkeypatch):
    book = Ledger.open(tmp_path / "ledger.json", account())
    original = module.write_text
    monkeypatch.setattr(module, "write_text", dying(original, "before"))
    for _ in range(2):  # the second attempt must not find it in memory and go on without writing
        with pytest.raises(Killed):
            book.reserve([CHARGES[0]], "train")
    assert book.account.events == []
    with pytest.raises(Killed):
        book.taint()
    assert not book.account.tainted


def test_two_processes_do_not_overwrite_each_other(tmp_path):
    first = Ledger.open(tmp_path / "ledger.json", account())
    second = Ledger.open(tmp_path / "ledger.json", account())
    first.reserve([CHARGES[0]], "train")
    with pytest.raises(BudgetError, match="changed by someone else"):
        second.reserve([CHARGES[1]], "train")
    assert [e.id for e in Account.parse((tmp_path / "ledger.json").read_text()).events] == ["train/r0"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b'{"format": "dpib-ledger-1"}'])
def test_a_damaged_file_is_one_line_that_names_it_and_the_cure(tmp_path, content):
    (tmp_path / "ledger.json").write_bytes(content)
    with pytest.raises(BudgetError, match=r"ledger\.json.*resume=false") as caught:
        Ledger.open(tmp_path / "ledger.json", account())
    assert "\n" not in str(caught.value)
    assert (tmp_path / "ledger.json").read_bytes() == content
