"""What a run starts from brings its ledger along, if it is about the same images."""

import pytest

from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account, Ledger, Public
from dpib.privacy.lineage import about, inherit, spent_since
from dpib.privacy.statement import render
from dpib.privacy.stopping import Stopping


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


def test_a_ledger_about_other_images_travels_along_and_costs_these_nothing():
    found = inherit(account("query", dataset="other", tainted=True), account())
    assert found.events == []
    assert not found.tainted
    assert [(other.dataset, ids(other), other.tainted) for other in found.others] == [("other", ["train/query"], True)]


def test_a_detour_over_another_data_set_forgets_nothing():
    first = account("steps", tainted=True, origins=["t1"])
    detour = inherit(first, account(dataset="other", origins=["t2"]))
    detour.events.append(account("steps").events[0])
    back = inherit(detour, account(origins=["t3"]))
    assert ids(back) == ["train/before/steps"]
    assert back.tainted
    assert back.origins == ["t1", "t3"]
    assert [(other.dataset, ids(other)) for other in back.others] == [("other", ["train/steps"])]
    assert Account.parse(back.text()) == back


def test_the_same_images_under_another_name_are_the_same_images():
    found = inherit(account("steps", dataset="alias"), account(), same=lambda other: other.dataset == "alias")
    assert ids(found) == ["train/before/steps"]
    assert found.others == []


def test_of_a_chain_everybody_finds_his_own_account():
    chain = inherit(account("steps"), account(dataset="other"))
    mine = about(chain, "toy")
    assert ids(mine) == ["train/steps"]
    assert [other.dataset for other in mine.others] == ["other"]
    assert about(chain, "third") is None


def test_accounts_of_the_same_images_under_two_names_are_one():
    chain = inherit(account("steps", dataset="alias", tainted=True, origins=["t1"]), account(origins=["t2"]))
    chain.events.append(account("steps").events[0])
    known = about(chain, "toy", same=lambda other: "t1" in other.origins)
    assert ids(known) == ["train/steps", "train/before/steps"]
    assert (known.tainted, known.others, known.origins) == (True, [], ["t1", "t2"])
    assert known.spent() == account("a", "b").spent()
    assert Account.parse(known.text()) == known
    assert about(account("steps", dataset="alias"), "toy", same=lambda _: True).dataset == "toy"


def test_accounts_of_the_same_images_under_other_terms_are_brought_to_the_same():
    held_out = {"train": 90, "val": 10}
    picks = Charge("r/select/best", "noisy_max", "", epsilon=0.4).event("val", 10, "zero_out")
    alias = account(dataset="alias", delta=1e-6, scopes=held_out).model_copy(update={"events": [picks]})
    known = about(account("steps", others=[alias]), "toy", same=lambda _: True)
    assert (known.delta, known.scopes, known.disjoint) == (1e-5, {"train": 100, "val": 10}, False)
    assert known.spent() > account("steps").spent()
    assert Account.parse(known.text()) == known
    with pytest.raises(BudgetError, match=r"the same images here, .* does not add up"):
        about(account("steps", others=[account(dataset="alias", relation="replace_one")]), "toy", same=lambda _: True)


def test_capped_steps_on_another_number_of_images_are_not_counted_as_on_these():
    capped = Charge("steps", "gaussian", "", sigma=2.0, rate=0.3, count=5, cap=35).event("train", 90, "zero_out")
    alias = account(dataset="alias", scopes={"train": 90}).model_copy(update={"events": [capped]})
    with pytest.raises(BudgetError, match="was capped on 90 images of alias, toy has 100 of them"):
        about(account("steps", others=[alias]), "toy", same=lambda _: True)
    one_split = account(scopes={"train": 90}, others=[alias])
    assert about(one_split, "toy", same=lambda _: True).events == [capped]


def test_what_was_taken_as_public_is_passed_on():
    source = Public(name="open", digest="0" * 64)
    found = inherit(account(public=[source]), account(dataset="other"))
    assert found.public == [source]
    assert "open (digest 000000000000)" in render(found)


def test_a_held_out_event_is_counted_once_from_wherever_it_is_known():
    scopes = {"train": 100, "val": 10}
    event = Charge("run1/select/best", "noisy_max", "", epsilon=0.5).event("val", 10, "zero_out")
    upstream = account(scopes=scopes).model_copy(update={"events": [event]})
    found = spent_since(inherit(upstream, account(scopes=scopes)), [event, event])
    assert ids(found) == ["val/run1/select/best"]
    other = Charge("run2/select/best", "noisy_max", "", epsilon=0.5).event("val", 20, "zero_out")
    assert spent_since(found, [other]).events[1].n == 10  # another split held out other images
    with pytest.raises(BudgetError, match="under replace_one, this run has zero_out"):
        spent_since(found, [other.model_copy(update={"relation": "replace_one"})])


def test_scopes_that_may_overlap_compose():
    scopes = {"train": 100, "val": 10}
    picks = Charge("r/select/best", "noisy_max", "", epsilon=0.4).event("val", 10, "zero_out")
    apart = account("steps", scopes=scopes).model_copy(update={"events": [*account("steps").events, picks]})
    together = apart.model_copy(update={"disjoint": False})
    each = apart.spent_by_scope()
    assert apart.spent() == max(each.values())
    assert max(each.values()) < together.spent() <= sum(each.values()) * (1 + 1e-3)
    assert "not known that they are disjoint" in render(together)
    assert {event.scope for event in together.touching("val")} == {"val"}
    assert len(together.touching("val")) == 2


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


def test_a_search_of_random_length_is_moved_with_all_its_trials():
    base = (Charge("score", "gaussian", "", sigma=3.0),)
    stopping = Stopping.negative_binomial(3.0, 0.0)
    search = Charge("s/scores", "random_stopping", "", base=base, stopping=stopping).event("val", 20, "zero_out")
    found = spent_since(account(scopes={"train": 100, "val": 10}), [search])
    assert Account.parse(found.text()) == found
    together = found.model_copy(update={"disjoint": False}).touching("train")
    assert {event.scope for event in together[0].base} == {"train"}
