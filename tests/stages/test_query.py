"""Queries before pretraining, and parts, as tracked stages: what they charge, when they are found again."""

import csv
import shutil
from dataclasses import replace

import mlflow
import numpy as np
import pytest

from dpib import checkpoint
from dpib.chain import Start, run_before, run_generate, run_query, run_train
from dpib.data.synthetic import read_gen
from dpib.errors import UserError
from dpib.pipeline import run_main
from dpib.privacy import accounting
from dpib.privacy.ledger import Account
from dpib.stages import query as asking
from dpib.stages.build import FINAL
from dpib.stages.generate import GEN
from dpib.upstream import continue_from
from tests.stages.tracked import artifacts, children, ledger_of


def test_the_ledger_is_the_closed_form_of_query_and_training(store, pro):
    config, card = pro(accountant="pld")
    result = run_main(config, card, store)
    account = ledger_of(store, result.run_id)
    told = [(e.id, e.sigma, e.rate, e.count) for e in account.events if e.scope == "train"]
    n = account.scopes["train"]
    (steps,) = (e for e in account.events if e.id == "train/dp-sgd")
    assert told == [
        ("train/before/central", 2.5, 100 / n, 2),
        ("train/before/frequency", 7.4, 1.0, 1),
        ("train/dp-sgd", steps.sigma, 20 / n, 4),
    ]
    by_hand = accounting.spent([e for e in account.events if e.scope == "train"], account.delta)
    assert result.metrics["privacy/epsilon_train"] == pytest.approx(by_hand)
    assert by_hand <= 10
    assert by_hand == pytest.approx(10, rel=2e-3)
    kids = children(mlflow.get_run(result.run_id))
    assert set(kids) == {"query", "pretrain", "train", "generate", "evaluate"}
    assert kids["pretrain"].data.tags["dpib.inputs"] == kids["query"].info.run_id
    _, statement = read_gen(store.fetch(kids["generate"].info.run_id, str(GEN)), card)
    assert [e["id"] for e in statement["ledger"]["events"]][:2] == ["train/before/central", "train/before/frequency"]


def test_privimage_runs_through_every_stage_and_tells_its_choice(store, privimage):
    config, card = privimage()
    result = run_main(config, card, store)
    tags = mlflow.get_run(result.run_id).data.tags
    assert {"dpib.run.part-semantics", "dpib.run.query", "dpib.run.pretrain"} <= set(tags)
    pretrained = tags["dpib.run.pretrain"]
    with store.fetch(pretrained, "tables/selected.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["class"]) for row in rows] == list(range(10))
    assert sorted(int(row["public_class"]) for row in rows) == list(range(10))
    assert any("selected-choice" in path for path in artifacts(pretrained))
    account = ledger_of(store, result.run_id)
    assert [e.id for e in account.events if e.scope == "train"] == ["train/before/selected", "train/dp-sgd"]
    assert [source.name for source in account.public] == ["glyphs_28"]


def test_a_query_serves_other_budgets_and_is_charged_in_each_ledger_once(store, pro):
    first = run_before(*pro(), store)
    second = run_before(*pro(epsilon="5"), store)
    assert (second.query.reused, second.pretrain.reused) == (True, True)
    for epsilon, before in (("10", first), ("5", second)):
        config, card = pro(epsilon=epsilon)
        account = ledger_of(store, run_train(config, card, store, before.start()).run_id)
        assert [e.id for e in account.events] == ["train/before/central", "train/before/frequency", "train/dp-sgd"]
        assert account.spent() == pytest.approx(float(epsilon), rel=2e-3)
        assert account.spent() <= float(epsilon)
    query = ledger_of(store, first.query.run_id)
    assert query.epsilon == query.spent() < 1


def test_what_is_learnt_from_a_query_does_not_ask_it_again(store, pro):
    first = run_before(*pro(), store)
    other = run_before(*pro(lessons__0__fit="{steps: 5, batch: 8}"), store)
    assert other.query.reused
    assert not other.pretrain.reused
    assert not run_before(*pro(lessons__0__noise_multiplier="6"), store).query.reused
    assert not run_before(*pro(seed="1"), store).query.reused
    assert first.query.run_id == other.query.run_id


def test_a_pretraining_goes_on_from_its_own_query_alone(store, pro):
    config, card = pro()
    first = run_before(config, card, store)
    fresh = config.model_copy(update={"reuse": False})
    asked = run_query(fresh, card, store)
    again = run_before(config, card, store)
    assert asked.run_id != first.query.run_id
    # Of two queries that differ in nothing but their noise one is found, and the pretraining of that one.
    inputs = {run: store.tags(run)["dpib.inputs"] for run in (first.pretrain.run_id, again.pretrain.run_id)}
    assert inputs[again.pretrain.run_id] == again.query.run_id
    assert inputs[first.pretrain.run_id] == first.query.run_id


def test_a_training_does_not_begin_at_a_query(store, pro):
    config, card = pro()
    file = store.fetch(run_query(config, card, store).run_id, str(FINAL))
    with pytest.raises(UserError, match="checkpoint of a query, from which nothing is learnt yet"):
        run_train(config, card, store, Start(file=file))


def test_what_a_part_was_told_cannot_be_changed_afterwards(store, privimage):
    config, card = privimage()
    trained = run_train(config, card, store, run_before(config, card, store).start())
    with pytest.raises(UserError, match=r"parts\.semantics\.epochs belongs to the query stage"):
        continue_from(trained.run_id, "train", store, {"parts.semantics.epochs": "2"})
    with pytest.raises(UserError, match=r"lessons belongs to the query stage"):
        continue_from(trained.run_id, "train", store, {"lessons.0.ratio": "0.9"})


def test_images_of_a_pretraining_state_what_its_query_spent(store, pro):
    config, card = pro()
    before = run_before(config, card, store)
    generated = run_generate(config, card, store, before.pretrain.run_id)
    _, statement = read_gen(store.fetch(generated.run_id, str(GEN)), card)
    assert statement["epsilon"] == pytest.approx(ledger_of(store, before.query.run_id).spent())
    assert statement["epsilon"] > 0


def test_a_training_from_a_checkpoint_asks_nothing_and_pays_for_what_was_asked(store, pro):
    config, card = pro()
    before = run_before(config, card, store)
    file = store.fetch(before.pretrain.run_id, str(FINAL))
    result = run_main(config, card, store, Start(file=file))
    assert set(children(mlflow.get_run(result.run_id))) == {"train", "generate", "evaluate"}
    told = [e.id for e in ledger_of(store, result.run_id).events if e.scope == "train"]
    assert told == ["train/before/central", "train/before/frequency", "train/dp-sgd"]


def test_other_images_under_the_name_are_asked_anew(store, pro, digits_root, tmp_path, monkeypatch):
    first = run_before(*pro(), store)
    other = tmp_path / "other" / "digits_28"
    shutil.copytree(digits_root / "digits_28", other)
    with np.load(other / "train.npz") as content:
        arrays = dict(content)
    arrays["images"][0] = 255 - arrays["images"][0]
    np.savez(other / "train.npz", **arrays)
    monkeypatch.setenv("DPIB_DATA", str(tmp_path / "other"))
    second = run_before(*pro(), store)
    assert not second.query.reused
    assert second.pretrain.run_id != first.pretrain.run_id


def test_a_plan_that_the_budget_cannot_hold_is_refused_before_anything_is_asked(store, pro):
    config, card = pro(lessons__1__noise_multiplier="0.05")
    with pytest.raises(UserError, match="nothing of the budget epsilon = 10 is left"):
        run_main(config, card, store)
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []


def test_what_was_queried_is_not_public(store, pro):
    config, card = pro()
    before = run_before(config, card, store)
    for run in (before.query.run_id, before.pretrain.run_id):
        text = checkpoint.text(store.fetch(run, str(FINAL)), "ledger")
        assert text is not None
        assert [e.id for e in Account.parse(text).events] == ["train/central", "train/frequency"]


def test_priced_is_what_a_query_costs(pro):
    from dpib.sensitive import fresh_account
    from dpib.stages.solving import training_plan

    config, card = pro(accountant="pld")
    fresh = fresh_account(config, card)
    charges = asking.asked(training_plan(config, card, fresh))
    account = asking.priced(fresh, charges)
    assert [charge.name for charge in charges] == ["central", "frequency"]
    assert account.epsilon == pytest.approx(
        accounting.spent([c.event("train", account.scopes["train"], "zero_out") for c in charges], account.delta)
    )
    assert replace(charges[0], stage="train") != charges[0]


def test_a_query_without_a_noise_of_its_own_shares_that_of_the_training(store, pro):
    config, card = pro(lessons__0__noise_multiplier="none", lessons__1__noise_multiplier="none", accountant="rdp")
    before = run_before(config, card, store)
    account = ledger_of(store, run_train(config, card, store, before.start()).run_id)
    sigmas = [event.sigma for event in account.events]
    assert sigmas[0] == sigmas[1] == pytest.approx(sigmas[2], rel=1e-2)
    assert account.spent() == pytest.approx(10, rel=2e-3)
    assert account.spent() <= 10
    assert not run_before(*pro(epsilon="5", lessons__0__noise_multiplier="none", accountant="rdp"), store).query.reused


def test_a_query_whose_noise_leaves_nothing_costs_nothing_and_serves_a_training(store, pro):
    config, card = pro(**{"lessons.0.noise_multiplier": "1e8", "lessons.1.noise_multiplier": "1e8"})
    assert run_query(config, card, store).metrics["privacy/epsilon"] == 0
    trained = run_train(config, card, store, run_before(config, card, store).start())
    assert ledger_of(store, trained.run_id).spent() == pytest.approx(10, rel=2e-3)
