"""Who proposes trials and who gives them up: seeds of samplers, the random start, and pruners."""

import optuna
import pytest

from dpib.section import validated
from dpib.sweeps.spec import Sweep
from dpib.sweeps.worker import _pruner, _sampler, startup

SPACE = {"eval.schedule.lr": {"low": 0.001, "high": 0.1, "log": True}}


def sweep(**keys):
    return validated(Sweep, {"name": "t", "kind": "classifier", "mode": "one_shot", "space": SPACE, **keys}, "test")


def proposed(sampler, trials=6):
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for _ in range(trials):
        trial = study.ask()
        study.tell(trial, trial.suggest_float("x", 0, 1))
    return [trial.params["x"] for trial in study.get_trials()]


@pytest.mark.parametrize("name", ["random", "tpe", "gp"])
def test_proposals_repeat_from_their_seed_and_workers_with_other_seeds_make_others(name):
    spec = sweep(sampler=name, trials=8)
    points = proposed(_sampler(spec, 5))
    assert proposed(_sampler(spec, 5 + 2**32)) == points  # seeds are of 64 bits, samplers take 32
    assert not set(proposed(_sampler(spec, 6))[:4]) & set(points[:4])


@pytest.mark.parametrize(("trials", "first"), [(1, 1), (2, 1), (7, 3), (16, 8), (40, 8)])
def test_half_of_a_short_sweep_and_eight_trials_of_a_long_one_are_drawn_at_random(trials, first):
    assert startup(sweep(trials=trials)) == first


def test_a_pruner_is_what_was_asked_for():
    kinds = {name: type(_pruner(sweep(trials=4, pruner=name))) for name in ("median", "halving", None)}
    pruners = optuna.pruners
    assert kinds == {
        "median": pruners.MedianPruner, "halving": pruners.SuccessiveHalvingPruner, None: pruners.NopPruner,
    }  # fmt: skip
