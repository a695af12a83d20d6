"""Search spaces: points, their keys, and what is refused."""

import optuna
import pytest

from dpib.errors import UserError
from dpib.section import validated
from dpib.sweeps.space import changes, independent, keys, logged, suggest
from dpib.sweeps.spec import Sweep, read_sweep

SPACE = {
    "eval.schedule.lr": {"low": 0.001, "high": 0.1, "log": True},
    "eval.schedule.epochs": {"low": 2, "high": 6, "step": 2, "integer": True},
    "eval.schedule.flip": {"choices": [True, False]},
    "architecture": {
        "options": {
            "small": {"eval.classifiers": {"wrn": None, "resnet": {"depth": 8}}},
            "none": {"eval.classifiers.wrn": None},
        }
    },
}


def space(**changed):
    tree = {"name": "t", "kind": "classifier", "mode": "one_shot", "trials": 4, "space": {**SPACE, **changed}}
    return validated(Sweep, tree, "test").space


def test_options_stand_for_the_keys_that_they_change():
    found = keys(space())
    assert {"eval.classifiers.wrn", "eval.classifiers.resnet.depth", "eval.schedule.lr"} <= found
    assert "architecture" not in found
    assert changes({"architecture": "none", "eval.schedule.lr": 0.01}, space()) == {
        "eval.classifiers.wrn": None,
        "eval.schedule.lr": 0.01,
    }


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_independent_points_lie_in_the_space_and_repeat_from_their_seed(sampler):
    points = independent(space(), sampler, 20, 3)
    assert points == independent(space(), sampler, 20, 3)
    assert points != independent(space(), sampler, 20, 4)
    assert all(0.001 <= p["eval.schedule.lr"] <= 0.1 and p["eval.schedule.epochs"] in (2, 4, 6) for p in points)
    assert {p["architecture"] for p in points} == {"small", "none"}


def test_a_grid_is_gone_through_once():
    whole = {k: v for k, v in space().items() if k != "eval.schedule.lr"}
    points = independent(whole, "grid", 12, 0)
    assert len({tuple(p.items()) for p in points}) == 12
    with pytest.raises(UserError, match="has 12 points"):
        independent(whole, "grid", 10, 0)
    with pytest.raises(UserError, match="lr needs a step"):
        independent(space(), "grid", 12, 0)


def test_optuna_proposes_points_of_the_space():
    trial = optuna.create_study().ask()
    point = suggest(trial, space())
    assert set(point) == set(SPACE)
    assert trial.params == point


def test_a_logarithmic_key_is_logged_on_its_scale_too():
    assert logged({"eval.schedule.lr": 0.01}, space()) == {"eval.schedule.lr": 0.01, "log10_eval.schedule.lr": -2.0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": 2, "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"low": 1, "high": 2, "log": True, "step": 1},
        {"low": 0.5, "high": 2, "integer": True},
        {"choices": [1]},
        {"low": 1, "hihg": 2},
    ],
)
def test_a_senseless_dimension_is_refused(wrong):
    with pytest.raises(UserError):
        space(**{"eval.schedule.batch": wrong})


@pytest.mark.parametrize("name", ["classifier", "synthesizer"])
def test_the_shipped_sweeps_are_valid(name):
    spec, rest, base = read_sweep(name, {"sweep.trials": "3", "epsilon": "2"})
    assert (spec.name, spec.trials, rest) == (name, 3, {"epsilon": "2"})
    assert base["dataset"] == "digits_28"


def test_a_misspelt_key_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'trials'"):
        read_sweep("classifier", {"sweep.trails": "3"})
    with pytest.raises(UserError, match="classifier, synthesizer"):
        read_sweep("nothing", {})


@pytest.mark.parametrize("name", ["wide (a, b)", "wide[1]", "", "x" * 101])
def test_a_name_that_no_tracked_parameter_can_have_is_refused_when_read(name):
    groups = {"small": {"eval.schedule.lr": 0.1}, "large": {"eval.schedule.lr": 0.2}}
    with pytest.raises(UserError, match="holds more than letters, digits"):
        space(**{name: {"options": groups}})
    with pytest.raises(UserError, match="holds more than letters, digits"):
        space(architecture={"options": {**groups, name: {"eval.schedule.lr": 0.3}}})
