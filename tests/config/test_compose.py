"""Layers, profiles, aliases, and every kind of refusal, each in one line with the nearest right name."""

import math
import re

import pytest
import yaml

from dpib.config import compose, from_text
from dpib.config.compose import CONFIGS, layered, merge, nearest_epsilon
from dpib.config.overrides import nest
from dpib.config.sense import require_pretraining
from dpib.errors import UserError
from dpib.section import Section, Text, dump_yaml, parse_yaml, validated


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


REFUSALS = [
    ({"train.lrr": "3"}, "unknown key 'train.lrr' (did you mean 'train.lr'?)"),
    ({"trian.lr": "3"}, "unknown key 'trian' (did you mean 'train'?)"),
    ({"eval.schedule.epoch": "3"}, "unknown key 'eval.schedule.epoch' (did you mean 'eval.schedule.epochs'?)"),
    ({"train.lr": "fast"}, "train.lr: input should be a valid number, got 'fast'"),
    ({"train.steps": "1.5"}, "train.steps: input should be a valid integer, got 1.5"),
    ({"train.steps": "0"}, "train.steps: input should be greater than 0, got 0"),
    ({"epsilon": "-1"}, "epsilon: input should be greater than 0, got -1"),
    ({"epsilon": "ten"}, "epsilon: input should be a valid number, got 'ten'"),
    ({"epsilon": ".inf"}, "epsilon: input should be a finite number"),
    ({"delta": "1"}, "delta: input should be less than 1"),
    ({"reuse": "maybe"}, "reuse: input should be a valid boolean, got 'maybe'"),
    ({"method": "dp-mrf"}, "unknown method 'dp-mrf' (did you mean 'dp-merf'?)"),
    ({"method": "gone.yaml"}, "method file gone.yaml does not exist"),
    ({"dataset": "mnist"}, "unknown data set 'mnist' (did you mean 'mnist_28'?)"),
    ({"profile": "quick"}, "unknown profile 'quick'"),
    ({"network.name": "gan"}, "network.name: input should be 'small' or 'biggan', got 'gan'"),
    ({"eval.mode": "ses"}, "eval.mode: input should be 'val', 'syn' or 'sen', got 'ses'"),
    ({"eval.metrics": "[fidd]"}, "unknown metric 'fidd' (did you mean 'fid'?)"),
    ({"eval.metrics": "[no.py:f]"}, "no.py does not exist"),
    ({"data.holdout": "1498"}, "data.holdout=1498 leaves 0 of 1498"),
    ({"eval.classifiers.resnet.depth": "9"}, "eval.classifiers.resnet.depth: depth 9 is not 6 n + 2, got 9"),
    ({"eval.classifiers.wrn.depth": "4"}, "eval.classifiers.wrn.depth: depth 4 is not 6 n + 4, got 4"),
    ({"eval.classifiers.resnext.depth": "8"}, "eval.classifiers.resnext.depth: depth 8 is not 9 n + 2, got 8"),
    ({"eval.classifiers": "{resnet: none, wrn: none, resnext: none}"}, "leave at least one of resnet, wrn and resnext"),
    ({"data_root": "~no-such-user/x"}, "~no-such-user/x: there is no user of that name"),
    ({"method": "~no-such-user/x.yaml"}, "~no-such-user/x.yaml: there is no user of that name"),
    ({"generate.images": "1"}, "generate.images=1 leaves no synthetic image"),
    ({"generate.images": "20", "eval.syn_holdout": "0.99"}, "generate.images=20 leaves no synthetic image"),
    ({"seed": "[1"}, "seed=[1:"),
    ({"train": "3", "train.lr": "1"}, "'train' was already given a value"),
]


@pytest.mark.parametrize(
    ("overrides", "says"), REFUSALS, ids=[next(iter(o)) + "=" + next(iter(o.values())) for o, _ in REFUSALS]
)
def test_what_is_wrong_is_refused_in_one_line(overrides, says):
    with pytest.raises(UserError) as error:
        compose(overrides)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_number_may_be_written_either_way_and_none_is_none():
    config, _ = compose({"train.lr": "1e-3", "note": "2024", "delta": "none"})
    assert config.recipe.train.lr == 1e-3
    assert config.note == "2024"


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


def test_yaml_traps():
    assert parse_yaml("1e-1", "") == 0.1
    assert parse_yaml("none", "") is None
    with pytest.raises(UserError, match="'a' stands twice"):
        parse_yaml("a: 1\na: 2", "f")
    with pytest.raises(UserError, match="could not determine a constructor"):
        parse_yaml("!!python/object/apply:os.system ['true']", "f")


def test_an_unknown_profile_block_is_refused(tmp_path):
    text = (CONFIGS / "methods" / "dp-merf.yaml").read_text().replace("  smoke:", "  smok:")
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UserError, match="unknown profile 'smok'"):
        layered({"method": str(tmp_path / "m.yaml")})


@pytest.mark.parametrize("method", sorted(p.stem for p in (CONFIGS / "methods").glob("*.yaml")))
@pytest.mark.parametrize("dataset", ["digits_28", "mnist_28", "fmnist_28", "cifar10_32"])
@pytest.mark.parametrize("profile", ["smoke", "fast", "paper"])
def test_every_recipe_composes_for_every_data_set_and_profile(method, dataset, profile):
    config, _ = compose({"method": method, "dataset": dataset, "profile": profile})
    assert config.method == method


LITERAL = ["2024", "007", "1e3", "12:30", "1_000", "disk #1", "a: b", "[x", "{y", "*z", "&w", "'q'", "true", "!!int 3"]


@pytest.mark.parametrize("text", LITERAL)
def test_a_text_is_taken_literally_and_survives_the_run_s_own_file(text):
    config, _ = compose({"note": text, "data_root": f"/x/{text}"})
    assert (config.note, config.data_root) == (text, f"/x/{text}")
    again, _ = from_text(dump_yaml(config.nested()), {"eval.inception_weights": text}, "here")
    assert (again.note, again.eval.inception_weights) == (text, text)


def test_a_text_in_a_file_is_what_is_written_there():
    class Named(Section):
        names: list[Text]
        count: int
        share: float

    tree = parse_yaml("{names: [007, 1e3, -0, 1_000, .5, 010], count: 010, share: 1e-3}", "f")
    found = validated(Named, tree, "f")
    assert found.names == ["007", "1e3", "-0", "1_000", ".5", "010"]
    assert (found.count, found.share) == (10, 0.001)
    assert parse_yaml(dump_yaml(tree), "f") == tree


def test_a_text_of_the_recipe_is_taken_literally_too(tmp_path):
    (tmp_path / "m.py").write_text(RECIPE)
    (tmp_path / "m.yaml").write_text("{name: m, citation: c, synthesizer: 'm.py:M', prompt: {words: a}}")
    config, _ = compose({"method": str(tmp_path / "m.yaml"), "prompt.words": "007", "prompt.last": "none"})
    assert config.recipe.prompt.words == "007"
    assert config.recipe.prompt.last is None
    text = dump_yaml(config.nested())
    assert from_text(text, {"prompt.words": "none"}, "here")[0].recipe.prompt.words == "none"


RECIPE = """
from dpib.section import Section


class Prompt(Section):
    words: str
    last: str | None = "x"


class Settings_(Section):
    prompt: Prompt


class M:
    Settings = Settings_
    reads = {"train": ("prompt",)}

    def plan(self, n): ...
    def query(self, vault, log): ...
    def pretrain(self, public, log): ...
    def train(self, vault, log): ...
    def generate(self, labels, generator): ...
    def class_proportions(self): ...
    def state_dict(self): ...
    def load_state_dict(self, state): ...


class Half:
    Settings = Settings_

    def plan(self, n): ...


answer = 42
"""

BROKEN = [
    ("def f(:\n", "F", "m.py cannot be imported (SyntaxError: invalid syntax (m.py, line 1)"),
    ("\nimport no_such_module\n", "F", "m.py cannot be imported (ModuleNotFoundError, line 2: No module named"),
    ("def f():\n    1 / 0\nf()\n", "F", "m.py cannot be imported (ZeroDivisionError, line 2: division by zero)"),
    ("import sys\nsys.exit(3)\n", "F", "m.py cannot be imported (SystemExit, line 2: 3)"),
    (RECIPE, "N", "has no 'N'"),
    (RECIPE, "answer", "is a int, not a synthesizer"),
    (RECIPE, "Prompt", "is no synthesizer, it lacks Settings of type Section, reads by stage, plan, query, pretrain,"),
    (
        RECIPE,
        "Half",
        "is no synthesizer, it lacks reads by stage, query, pretrain, train, generate,",
    ),
]


@pytest.mark.parametrize(("code", "name", "says"), BROKEN, ids=[says[:40] for _, _, says in BROKEN])
def test_a_synthesizer_that_is_none_is_refused_in_one_line(tmp_path, code, name, says):
    (tmp_path / "m.py").write_text(code)
    (tmp_path / "m.yaml").write_text(f"{{name: m, citation: c, synthesizer: 'm.py:{name}', prompt: {{words: a}}}}")
    with pytest.raises(UserError) as error:
        compose({"method": str(tmp_path / "m.yaml")})
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_metric_that_is_none_is_refused(tmp_path):
    (tmp_path / "m.py").write_text("value = 3")
    with pytest.raises(UserError, match="is a int, not a metric"):
        compose({"eval.metrics": f"[{tmp_path / 'm.py'}:value]"})


def test_several_errors_are_told_together():
    with pytest.raises(UserError) as error:
        compose({"train.lr": "fast", "epsilon": "-1", "eval.schedule.epoch": "3", "train.lrr": "1"})
    for part in ("train.lr: input", "epsilon: input", "'eval.schedule.epoch' (did", "'train.lrr' (did"):
        assert part in str(error.value)
    assert str(error.value).count("; ") == 3
    with pytest.raises(UserError, match=r"unknown profile 'x'.*; unknown method 'y'.*; unknown data set 'z'"):
        compose({"profile": "x", "method": "y", "dataset": "z"})
    with pytest.raises(UserError, match=r"seed=\[1: .*; epsilon={: "):
        compose({"seed": "[1", "epsilon": "{"})


CONTRADICTIONS = [
    ({"data.holdout": "0"}, "eval.mode=val selects on held-out images, and there are none"),
    ({"eval.mode": "sen", "yardstick": "none"}, "eval.mode=sen selects on test images"),
    ({"oracle": "true", "yardstick": "none"}, "oracle=true asks for figures on real images"),
    ({"dataset": "omniglot_28", "eval.mode": "syn"}, "omniglot_28 has no test images: set yardstick=none"),
    ({"delta": "0.9"}, "delta=0.9 is above 0.01"),
    ({"delta": "0.9", "data.holdout": "0"}, "data.holdout, or eval.mode=syn; delta=0.9 is above 0.01"),
]


@pytest.mark.parametrize(("overrides", "says"), CONTRADICTIONS, ids=[says for _, says in CONTRADICTIONS])
def test_what_can_be_refused_without_data_is_refused_at_once(overrides, says):
    with pytest.raises(UserError, match=re.escape(says)):
        compose(overrides)


def test_a_large_delta_is_accepted_by_its_own_key_and_never_chosen():
    assert compose({"delta": "0.9", "large_delta": "true"})[0].delta == 0.9
    few = {"data.holdout": "1490"}  # leaves 8 images, and 1 / (n ln n) is 0.06
    assert compose(few)[0].delta == 0.01


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


BOMB = "[&a [x, x, x, x, x, x, x, x, x], &b [*a, *a, *a, *a, *a, *a, *a, *a], [*b, *b, *b, *b, *b, *b, *b, *b]]"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("seed", BOMB),
        ("train", "&x {lr: *x}"),
        ("seed", "[" * 5000 + "]" * 5000),
        ("seed", "9" * 6000),
        ("seed", "x" * 10**6),
        ("x" * 10**6, "3"),
        ("dataset", "x" * 10**6),
        ("method", "x" * 10**6),
        ("profile", "x" * 10**6),
        ("method", "x" * 10**3 + ".yaml"),
        ("dataset", "x" * 10**3 + ".yaml"),
        ("note", "x" * 10**6),
        ("eval.metrics", "[" + "x" * 10**6 + "]"),
        ("seed", "{" + ", ".join(f"k{i}: 1" for i in range(10_000)) + "}"),
    ],
    ids=lambda text: text[:20],
)
def test_no_error_repeats_what_is_too_long_to_read(key, text):
    with pytest.raises(UserError) as error:
        compose({key: text})
    assert len(str(error.value)) < 700
    assert "\n" not in str(error.value)


def test_aliases_are_not_read():
    with pytest.raises(UserError, match=r"aliases \(\*name\) are not read"):
        parse_yaml("[&a [1, 2], *a]", "f")


def test_numbers_are_what_people_mean():
    numbers = {"010": 10, "-3": -3, "1e3": 1000.0, ".5": 0.5, "2.": 2.0, ".inf": math.inf}
    texts = {text: text for text in ("12:30", "2024-01-01", "0x10")}
    assert {text: parse_yaml(text, "") for text in (*numbers, *texts)} == {**numbers, **texts}


@pytest.mark.parametrize("method", ["pdp-diffusion", "dp-ldm-sd"])
def test_what_goes_on_from_public_images_is_not_trained_from_nothing(method):
    config, _ = compose({"method": method})
    with pytest.raises(UserError, match=f"{method} goes on from public images: give -P public="):
        require_pretraining(config, started=False)
    require_pretraining(config, started=True)
    for key, value in (("public", "glyphs_28"), ("pretraining", "optional"), ("method", "dpdm"), ("method", "dp-merf")):
        require_pretraining(compose({"method": method, key: value})[0], started=False)
