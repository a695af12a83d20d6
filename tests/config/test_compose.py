"""Layers, profiles, aliases, and the resolved configuration."""

import math

import pytest
import yaml

from dpib.config import compose, from_text
from dpib.config.compose import CONFIGS, merge, nearest_epsilon
from dpib.config.overrides import nest
from dpib.errors import UserError


def test_defaults_compose_and_follow_the_data_set():
    config, card = compose({})
    assert (config.method, config.dataset, config.epsilon, config.profile) == ("dp-merf", "digits_28", 10, "smoke")
    n = card.sizes.train - card.holdout
    assert config.data.holdout == card.holdout
    assert config.delta == pytest.approx(1 / (n * math.log(n)))


@pytest.mark.parametrize(("n", "delta"), [(55_000, 1.66575e-6), (45_000, 2.07405e-6)])
def test_delta_as_published(n, delta):
    config, _ = compose({"dataset": "mnist_28" if n == 55_000 else "cifar10_32"})
    assert config.delta == pytest.approx(delta, rel=1e-5)


@pytest.mark.parametrize("mode", ["syn", "sen"])
def test_modes_without_validation_images_train_on_every_record(mode):
    assert compose({"eval.mode": mode})[0].data.holdout == 0
    assert compose({"eval.mode": mode, "data.holdout": "100"})[0].data.holdout == 100


@pytest.mark.parametrize("name", ["dp-merf", "DP-MERF", "Dp-Merf", "merf"])
def test_public_names_of_a_method_are_aliases(name):
    assert compose({"method": name})[0].method == "dp-merf"


def test_profiles_differ_and_the_command_line_wins():
    smoke, paper = compose({})[0], compose({"profile": "paper"})[0]
    assert smoke.recipe.train.steps < paper.recipe.train.steps
    assert paper.recipe.features.bandwidths == [105]
    assert compose({"profile": "paper", "train.steps": "7"})[0].recipe.train.steps == 7


def test_a_tuned_file_and_a_card_say_only_what_differs():
    mnist, cifar = (compose({"profile": "paper", "dataset": d})[0] for d in ("mnist_28", "cifar10_32"))
    assert (mnist.recipe.network.width, cifar.recipe.network.width) == (41, 60)
    assert (mnist.eval.schedule.optimizer, cifar.eval.schedule.optimizer) == ("adam", "sgd")
    assert (mnist.eval.classifiers.resnet.depth, cifar.eval.classifiers.resnet.depth) == (110, 164)


@pytest.mark.parametrize(("epsilon", "nearest"), [(0.2, 1), (1, 1), (3, 1), (3.2, 10), (50, 10)])
def test_values_by_epsilon_take_the_nearest_published_one(epsilon, nearest):
    assert nearest_epsilon({1: "a", 10: "b"}, epsilon) == nearest


def test_blocks_by_epsilon_reach_the_configuration(tmp_path):
    text = (CONFIGS / "methods" / "dp-merf.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(
        text.replace("name: dp-merf", "name: mine") + "by_epsilon: {1: {seed: 1}, 10: {seed: 10}}\n"
    )
    assert compose({"method": str(tmp_path / "mine.yaml"), "epsilon": "2"})[0].seed == 1
    assert compose({"method": str(tmp_path / "mine.yaml"), "epsilon": "8"})[0].seed == 10


def test_yardstick_none_turns_it_off():
    assert compose({"yardstick": "none"})[0].yardstick is None


def test_a_resolved_configuration_reads_back_the_same():
    config, card = compose({"train.lr": "0.5", "note": "x"})
    text = yaml.safe_dump(config.nested(), sort_keys=False)
    again, same_card = from_text(text, {}, "here")
    assert again == config
    assert same_card == card
    changed, _ = from_text(text, {"generate.images": "5"}, "here")
    assert changed.generate.images == 5


def test_the_flat_view_has_every_key_once():
    flat = compose({})[0].flat()
    assert flat["train.lr"] == 0.01
    assert flat["eval.classifiers.resnet.depth"] == 8
    assert not any(key.startswith("recipe") for key in flat)


def test_the_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        compose({})[0].seed = 3


def test_merging_and_nesting():
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}) == {"a": {"b": 3, "c": 2}, "d": 4}
    assert nest({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize("method", sorted(p.stem for p in (CONFIGS / "methods").glob("*.yaml")))
@pytest.mark.parametrize("dataset", ["digits_28", "mnist_28", "fmnist_28", "cifar10_32"])
@pytest.mark.parametrize("profile", ["smoke", "fast", "paper"])
def test_every_recipe_composes_for_every_data_set_and_profile(method, dataset, profile):
    config, _ = compose({"method": method, "dataset": dataset, "profile": profile})
    assert config.method == method


def test_a_later_section_joins_an_earlier_key():
    config, _ = compose({"eval.schedule.epochs": "3", "eval": "{schedule: {batch: 7}}", "eval.mode": "syn"})
    assert (config.eval.schedule.epochs, config.eval.schedule.batch, config.eval.mode) == (3, 7, "syn")
    with pytest.raises(UserError, match=r"eval.schedule.epochs is given twice"):
        compose({"eval.schedule.epochs": "3", "eval": "{schedule: {epochs: 7}}"})
    with pytest.raises(UserError, match="train is given twice"):
        compose({"train.lr": "3", "train": "none"})


def test_nesting_leaves_what_it_was_given_as_it_was():
    given = {"a": {"b": 1}, "a.c": 2}
    assert nest(given) == {"a": {"b": 1, "c": 2}}
    assert given == {"a": {"b": 1}, "a.c": 2}


def test_a_section_of_another_kind_replaces_the_one_below():
    below = {"a": {"kind": "x", "b": 1}, "l": [{"kind": "x", "b": 1}]}
    above = {"a": {"kind": "y", "c": 2}, "l": {0: {"kind": "y"}}}
    assert merge(below, above) == {"a": {"kind": "y", "c": 2}, "l": [{"kind": "y"}]}
    assert merge(below, {"a": {"kind": "x", "c": 2}})["a"] == {"kind": "x", "b": 1, "c": 2}
    config, _ = compose({"method": "dp-merf", "features.kind": "fourier", "features.dimension": "30"})
    assert config.recipe.features.bandwidths == [15, 60]
