"""Lists of sections: their elements by number, on the command line and in files, and what is wrong with one."""

import json

import pytest

from dpib.config import compose, from_text, overlaid
from dpib.errors import UserError
from dpib.section import dump_yaml


def lessons(**overrides):
    config, _ = compose({"method": "feta-pro", **{k.replace("__", "."): v for k, v in overrides.items()}})
    return config.recipe.lessons


def test_an_element_is_changed_by_its_number():
    central, frequency = lessons(lessons__0__noise_multiplier="7", lessons__1__features__dimension="30")
    assert (central.noise_multiplier, central.samples) == (7, 3)
    assert (frequency.features.dimension, frequency.images) == (30, 5000)


def test_a_list_is_replaced_as_a_whole():
    (only,) = lessons(lessons="[{kind: central, samples: 2, batch: 50}]")
    assert only.samples == 2
    assert lessons(lessons="[]") == []


def test_a_curriculum_is_reordered_by_its_list():
    central, frequency = (one.model_dump() for one in lessons())
    swapped = lessons(lessons=json.dumps([frequency, central]))
    assert [one.kind for one in swapped] == ["frequency", "central"]


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("lessons.2.samples", "1", r"lessons\.2: lessons is a list of 2, its elements are 0, 1"),
        ("lessons.0.sampels", "1", r"lessons\.0: central: unknown key 'sampels' \(did you mean 'samples'\?\)"),
        ("lessons.0.samples", "0", r"lessons\.0: central: samples: input should be greater than 0"),
        ("lessons.0.fit.stesp", "3", r"fit of lesson central: unknown key 'stesp'"),
        ("lessons.0.kind", "centarl", r"unknown lesson 'centarl' \(did you mean 'central'\?\)"),
        ("lessons", "[central]", "give kind: one of public, selected, central, frequency"),
        ("parts", "{semantics: {kind: classifier}}", r"parts\.semantics: classifier: model is missing"),
    ],
)
def test_what_is_wrong_with_an_element_is_told_in_one_line(key, value, says):
    with pytest.raises(UserError, match=says) as error:
        compose({"method": "feta-pro", key: value})
    assert "\n" not in str(error.value)


def test_a_run_keeps_its_lessons_and_parts():
    config, _ = compose({"method": "privimage", "public": "glyphs_28", "lessons.0.ratio": "1"})
    again, _ = from_text(dump_yaml(config.nested()), {"lessons.0.noise_multiplier": "30"}, "text")
    assert again.recipe.lessons[0].ratio == 1
    assert again.recipe.lessons[0].noise_multiplier == 30
    assert again.parts == config.parts
    changed = overlaid(config, {"parts.semantics.epochs": 9, "lessons.0.assignment": "scores"})
    assert changed.parts["semantics"].epochs == 9
    assert changed.recipe.lessons[0].assignment == "scores"
    assert config.flat()["parts.semantics.model"] == "resnet10t"
