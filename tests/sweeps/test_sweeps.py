"""Whole sweeps on the bundled digits: what is charged, what is seen, and what a retry returns."""

import json
import sqlite3

import mlflow
import pytest
from click.testing import CliRunner

from dpib.chain import run_generate, run_train
from dpib.config import layered
from dpib.config.compose import nest
from dpib.errors import UserError
from dpib.pipeline import run_evaluate
from dpib.privacy.ledger import Account
from dpib.section import parse_yaml, validated
from dpib.stages.generate import GEN
from dpib.sweeps import slot as slots
from dpib.sweeps import trial
from dpib.sweeps.job import Order
from dpib.sweeps.launch import run_sweep
from dpib.sweeps.spec import Sweep
from dpib.tracking import Store
from entrypoints import sweep as entrypoint

ONE = {"eval.classifiers.wrn": "none", "eval.schedule.epochs": "1", "generate.images": "60"}
CLASSIFIER = {"eval.schedule.lr": {"low": 0.001, "high": 0.02, "log": True}}
SYNTHESIZER = {"train.lr": {"low": 0.001, "high": 0.02, "log": True}}


@pytest.fixture
def store(tracking_uri):
    return Store(tracking_uri)


@pytest.fixture
def base(tiny):
    """Return (config, card) with one small classifier."""
    chosen = {**tiny, **ONE}
    return layered(nest({key: parse_yaml(text, key) for key, text in chosen.items()}))


@pytest.fixture
def images(base, store):
    """Return a generate run."""
    trained = run_train(*base, store)
    return run_generate(*base, store, trained.run_id).run_id


@pytest.fixture
def order(base, tmp_path, request):
    def make(generate_run=None, **keys):
        kind = "classifier" if generate_run else "synthesizer"
        space = CLASSIFIER if generate_run else SYNTHESIZER
        tree = {"name": "t", "kind": kind, "trials": 2, "space": space, "heartbeat": 2, **keys}
        url = f"sqlite:///{tmp_path / 'sweeps.db'}"
        return Order(validated(Sweep, tree, "test"), *base, url, generate_run=generate_run)

    return make


def children(run_id, stage="trial"):
    run = mlflow.get_run(run_id)
    query = f"tags.`mlflow.parentRunId` = '{run_id}' and tags.`dpib.stage` = '{stage}'"
    return mlflow.search_runs([run.info.experiment_id], query, output_format="list")


def ledger(store, run_id):
    return Account.parse(store.fetch(run_id, "privacy/ledger.json").read_text())


def everything_stored(tmp_path):
    """Return every number in the database of studies, and all text there."""
    with sqlite3.connect(tmp_path / "sweeps.db") as connection:
        values = [row[0] for row in connection.execute("select value from trial_values")]
        values += [row[0] for row in connection.execute("select value from dpib_release")]
    return values


def test_one_shot_spends_one_selection_whatever_the_trials_and_shows_its_index_only(order, images, store, tmp_path):
    found = run_sweep(order(images, mode="one_shot", trials=3, sampler="tpe"), store)
    account = ledger(store, found.run_id)
    val = [event for event in account.events if event.scope == "val"]
    assert [(e.kind, e.epsilon) for e in val] == [("noisy_max", pytest.approx(10))]
    assert {e.id for e in account.events if e.scope == "train"} == {"train/embedding"}
    assert found.metrics["privacy/epsilon_sweep"] == found.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)
    assert found.metrics["utility/accuracy_best"] > 0
    trials = children(found.run_id)
    assert sorted(r.info.run_name for r in trials) == ["trial-000", "trial-001", "trial-002"]
    for run in trials:
        assert run.data.metrics["privacy/epsilon_trial"] == 0
        assert not {"privacy/epsilon", "sweep/score"} & set(run.data.metrics)
        assert not any("test" in name or "oracle" in name for name in run.data.metrics)
        assert {"sweep.eval.schedule.lr", "sweep.log10_eval.schedule.lr"} <= set(run.data.params)
    # Optuna was told the accuracy on held-out synthetic images, and nothing else.
    told = {run.data.metrics["sweep/synthetic_accuracy"] for run in trials}
    assert set(everything_stored(tmp_path)) == told
    parent = mlflow.get_run(found.run_id)
    assert parent.data.tags["dpib.best_trial"] in {run.info.run_id for run in trials}
    statement = store.fetch(found.run_id, "privacy/statement.md").read_text()
    assert "mode one_shot" in statement
    assert "report-noisy-max" in statement


def test_compose_charges_every_score_within_the_cap(order, images, store, tmp_path):
    found = run_sweep(order(images, mode="compose", trials=3, epsilon_total=12.0, sampler="tpe"), store)
    account = ledger(store, found.run_id)
    scores = [event for event in account.events if event.scope == "val"]
    assert len(scores) == 3
    assert {e.kind for e in scores} == {"gaussian"}
    # The images cost 10; the scores fill the cap on other records, and the total is the larger of both.
    assert 11.98 < found.metrics["privacy/epsilon_selection"] <= 12.0
    assert found.metrics["privacy/epsilon_sweep"] == found.metrics["privacy/epsilon_selection"]
    trials = children(found.run_id)
    seen = {run.data.metrics["sweep/score"] for run in trials}
    assert max(seen) == found.metrics["sweep/best_value"]
    n = account.scopes["val"]
    stored = sorted(set(everything_stored(tmp_path)))
    assert stored == pytest.approx(sorted(seen | {value * n / 100 for value in seen}), rel=1e-12)
    # A count of right answers is a whole number: a noised one is not.
    assert all(abs(value * n / 100 - round(value * n / 100)) > 1e-9 for value in seen)
    one = trials[0].data.metrics["privacy/epsilon_trial"]
    assert 0 < one < 12.0


def test_what_validation_images_spent_before_counts(base, order, images, store):
    config, card = base
    run_evaluate(config, card, store, store.fetch(images, str(GEN)), images)
    with pytest.raises(UserError, match="have already spent epsilon 10 of"):
        run_sweep(order(images, mode="one_shot"), store)
    found = run_sweep(order(images, mode="one_shot", epsilon_total=12.0), store)
    val = {e.id.rpartition("/")[2]: e.epsilon for e in ledger(store, found.run_id).events if e.scope == "val"}
    assert val["select"] == pytest.approx(2.0, rel=1e-3)
    assert sum(value for key, value in val.items() if key != "select") == pytest.approx(10)
    # And the next sweep sees this one.
    with pytest.raises(UserError, match="have cost epsilon"):
        run_sweep(order(images, mode="compose", epsilon_total=4.0), store)
    with pytest.raises(UserError, match="have already spent epsilon 12 of"):
        run_sweep(order(images, mode="compose", epsilon_total=12.0), store)


def test_a_trial_that_is_begun_again_returns_the_release_it_made(order, images, store, tmp_path, monkeypatch):
    released, tripped = [], []
    original = trial.release

    def counted(*arguments):
        released.append(original(*arguments))
        return released[-1]

    def trips(job, *arguments):
        value = original_score(job, *arguments)
        if not tripped:
            tripped.append(value)
            raise ConnectionError("the server is away just after the release")
        return value

    original_score = slots._score
    monkeypatch.setattr(trial, "release", counted)
    monkeypatch.setattr(slots, "_score", trips)
    found = run_sweep(order(images, mode="compose", trials=2), store)
    assert found.metrics["sweep/trials"] == 2
    assert len(released) == 2
    values = {run.data.metrics["sweep/score"] for run in children(found.run_id)}
    assert 100 * tripped[0] / 150 in values
    assert len([e for e in ledger(store, found.run_id).events if e.scope == "val"]) == 2
    runs = {run.info.run_id for run in children(found.run_id)}
    assert len(runs) == 2
    # Each attempt says which run it began, for another worker to close should this one die.
    with sqlite3.connect(tmp_path / "sweeps.db") as connection:
        told = connection.execute("select value_json from trial_user_attributes where key = 'runs'").fetchall()
    assert {run for (text,) in told for run in json.loads(text)} == runs


def test_composed_synthesizers_stop_at_the_cap(order, store):
    found = run_sweep(order(mode="compose", trials=4, epsilon_total=17.0), store)
    account = ledger(store, found.run_id)
    trained = [event for event in account.events if event.scope == "train"]
    # One costs 10, two 15.2 composed; a third would be over.
    assert len(trained) == 2
    assert found.metrics["sweep/trials"] == 2
    assert found.metrics["privacy/epsilon_train"] == pytest.approx(account.spent_by_scope()["train"])
    assert 10 < found.metrics["privacy/epsilon"] <= 17
    statement = json.loads(store.fetch(found.run_id, "report.json").read_text())["privacy"]
    assert len(statement["events"]) == len(account.events)


def test_a_public_sweep_costs_what_its_one_private_run_costs(order, store):
    found = run_sweep(order(mode="public", proxy="glyphs_28", final=True), store)
    assert found.metrics["privacy/epsilon_sweep"] == pytest.approx(10, rel=1e-3)
    trials = children(found.run_id)
    assert len(trials) == 2
    for run in trials:
        assert run.data.tags["dpib.dataset"] == "glyphs_28"
        assert [k for k in run.data.metrics if k.startswith("privacy/")] == ["privacy/epsilon_trial"]
    (final,) = children(found.run_id, "main")
    best = mlflow.get_run(found.run_id).data.params["best.train.lr"]
    assert final.data.params["cfg.train.lr"] == best
    names = {e.id for e in ledger(store, found.run_id).events}
    assert "train/embedding" in names
    assert any(name.endswith("/select/best") for name in names)


def test_an_unaccounted_sweep_says_so_everywhere(order, images, store):
    found = run_sweep(order(images, mode="unaccounted"), store)
    assert not any(name.startswith("privacy/") for name in found.metrics)
    trials = children(found.run_id)
    assert len(trials) == 2
    for run in (mlflow.get_run(found.run_id), *trials):
        assert run.data.tags["dpib.private"] == "false"
        assert not any(name.startswith("privacy/") for name in run.data.metrics)
    assert "NOT ACCOUNTED" in store.fetch(found.run_id, "privacy/statement.md").read_text()


def test_the_command_makes_the_images_that_it_needs(tiny, tracking_uri):
    flags = [f"--{key}={value}" for key, value in {**tiny, **ONE}.items()]
    space = "--sweep.space={eval.schedule.lr: {low: 0.001, high: 0.01}}"
    result = CliRunner().invoke(entrypoint.main, ["--config=classifier", "--sweep.trials=2", space, *flags])
    assert result.exit_code == 0, result.output
    assert "privacy/epsilon_sweep" in result.output
    refused = CliRunner().invoke(entrypoint.main, ["--config=classifier", "--sweep.mode=public"])
    assert refused.exit_code == 1
    assert refused.output.strip().splitlines()[-1].startswith("Error: sweep.mode=public tunes synthesizers")


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"train.lrr": {"low": 0.1, "high": 0.2}}, r"unknown key 'train\.lrr' \(did you mean 'train\.lr'"),
        ({"train.steps": {"choices": [10, "many"]}}, "train.steps: "),
        ({"train.lr": {"low": -1.0, "high": 0.1}}, r"train\.lr: .*greater than 0"),
        ({"a": {"options": {"x": {"train.lr": 0.1}, "y": {"train.rl": 0.1}}}}, r"unknown key 'train\.rl'"),
    ],
)
def test_a_space_that_leaves_the_configuration_is_refused_before_the_first_trial(order, store, space, says):
    with pytest.raises(UserError, match=says):
        run_sweep(order(mode="compose", epsilon_total=40.0, space=space), store)
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []
