"""What a value means: text is taken literally, numbers are what people mean, YAML has traps."""

import math

import pytest

from dpib.config import compose, from_text
from dpib.errors import UserError
from dpib.section import Section, Text, dump_yaml, parse_yaml, validated
from tests.config.outside import RECIPE


def test_a_number_may_be_written_either_way_and_none_is_none():
    config, _ = compose({"train.lr": "1e-3", "note": "2024", "delta": "none"})
    assert config.recipe.train.lr == 1e-3
    assert config.note == "2024"


def test_yaml_traps():
    assert parse_yaml("1e-1", "") == 0.1
    assert parse_yaml("none", "") is None
    with pytest.raises(UserError, match="'a' stands twice"):
        parse_yaml("a: 1\na: 2", "f")
    with pytest.raises(UserError, match="could not determine a constructor"):
        parse_yaml("!!python/object/apply:os.system ['true']", "f")


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


def test_aliases_are_not_read():
    with pytest.raises(UserError, match=r"aliases \(\*name\) are not read"):
        parse_yaml("[&a [1, 2], *a]", "f")


def test_numbers_are_what_people_mean():
    numbers = {"010": 10, "-3": -3, "1e3": 1000.0, ".5": 0.5, "2.": 2.0, ".inf": math.inf}
    texts = {text: text for text in ("12:30", "2024-01-01", "0x10")}
    assert {text: parse_yaml(text, "") for text in (*numbers, *texts)} == {**numbers, **texts}
