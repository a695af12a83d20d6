"""Who wins a sweep, and what its run says then; the trials themselves are played."""

from dataclasses import replace

import mlflow
import pytest

from dpib.config import overlaid
from dpib.errors import UserError
from dpib.privacy.ledger import BudgetError
from dpib.runner import Result
from dpib.sweeps import launch, worker
from dpib.sweeps.launch import run_sweep
from tests.sweeps.test_sweeps import base, order, store  # noqa: F401 - fixtures

PUBLIC = {"mode": "public", "proxy": "glyphs_28", "final": False, "trials": 3}


@pytest.fixture
def played(monkeypatch):
    """Return a function that sets what each slot scores: a number, None (given up) or an error."""

    def play(*scores):
        def trial(job, slot, point, stop, begun):
            if isinstance(scores[slot], Exception):
                raise scores[slot]
            return Result(f"run of slot {slot}", {}), scores[slot]

        monkeypatch.setattr(worker, "run_trial", trial)

    return play


@pytest.mark.parametrize(("direction", "slot"), [("maximize", 1), ("minimize", 2)])
def test_the_best_in_the_direction_that_was_asked_for_wins(order, store, played, direction, slot):  # noqa: F811
    scores = (2.0, 3.0, 1.0)
    played(*scores)
    found = run_sweep(order(**PUBLIC, direction=direction), store)
    assert store.tags(found.run_id)["dpib.best_trial"] == f"run of slot {slot}"
    assert found.metrics["sweep/best_value"] == scores[slot]
    assert found.metrics["privacy/epsilon_sweep"] == 0


def test_trials_are_counted_by_what_became_of_them(order, store, played, capsys):  # noqa: F811
    played(None, UserError("too wide"), 1.0)
    found = run_sweep(order(**PUBLIC), store)
    counted = {name: found.metrics[f"sweep/{name}"] for name in ("trials", "given_up", "failed", "best_value")}
    assert counted == {"trials": 2, "given_up": 1, "failed": 1, "best_value": 1.0}
    assert "stopped at the cap" not in capsys.readouterr().err


def test_a_sweep_that_reached_its_cap_says_so_and_counts_what_was_done(order, store, played, capsys):  # noqa: F811
    played(1.0, BudgetError("over the budget"), 2.0)
    assert run_sweep(order(**PUBLIC), store).metrics["sweep/trials"] == 1
    assert "stopped at the cap after 1 trials: over the budget" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scores", "says"),
    [((None, None, None), "all were given up"), ((None, UserError("too wide"), None), "no trial finished: too wide")],
)
def test_a_sweep_without_a_finished_trial_says_why(order, store, played, scores, says):  # noqa: F811
    played(*scores)
    with pytest.raises(UserError, match=says):
        run_sweep(order(**PUBLIC), store)


def test_a_sweep_with_noise_of_a_known_seed_states_no_epsilon(order, base, store, played):  # noqa: F811
    played(1.0, 2.0, 3.0)
    asked = order(**PUBLIC)
    config = base[0].model_copy(update={"unsafe_noise_seed": 3})
    found = run_sweep(replace(asked, config=config), store)
    assert not any(name.startswith("privacy/") for name in found.metrics)
    assert mlflow.get_run(found.run_id).data.tags["dpib.private"] == "false"


def test_only_a_public_sweep_needs_no_held_out_images(order, base, store, played):  # noqa: F811
    played(1.0, 2.0, 3.0)
    asked = order(**PUBLIC)
    config = overlaid(base[0], {"data.holdout": 0, "eval.mode": "syn"})
    assert run_sweep(replace(asked, config=config), store).metrics["sweep/trials"] == 3
    asked = order(mode="compose", epsilon_total=40.0)
    with pytest.raises(UserError, match=r"scores on held-out images: set data\.holdout"):
        run_sweep(replace(asked, config=config), store)


def test_a_sampler_that_learns_is_told_what_every_training_must_charge(order, store, monkeypatch):  # noqa: F811
    begun = []

    def workers(study, job, count):
        begun.append(job.training)
        raise UserError("enough")

    monkeypatch.setattr(launch, "_run_workers", workers)
    for sampler in ("tpe", "random"):
        with pytest.raises(UserError, match="enough"):
            run_sweep(order(mode="compose", epsilon_total=40.0, sampler=sampler), store)
    learnt, drawn = begun
    assert [charge.name for charge in learnt] == ["embedding"]
    assert drawn is None  # trials that were drawn beforehand may differ
