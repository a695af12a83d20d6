"""The reuse key: what decides a result changes it, what does not leaves it alone."""

import pytest

from dpib.config import compose
from dpib.config.fingerprint import fingerprint


def key(stage="train", upstream=(), **overrides):
    config, card = compose({k.replace("__", "."): v for k, v in overrides.items()})
    return fingerprint(stage, config, card, upstream)


@pytest.mark.parametrize("change", [{"note": "x"}, {"device": "cpu"}, {"reuse": "false"}, {"eval__batch": "7"}])
def test_indifferent_keys_leave_training_reusable(change):
    assert key() == key(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": "1"},
        {"seed": "1"},
        {"train__lr": "0.5"},
        {"features__dimension": "100"},
        {"data__holdout": "10"},
        {"relation": "replace_one"},
        {"dataset": "mnist_28"},
        {"unsafe_noise_seed": "1"},
        {"public": "omniglot_28"},
    ],
)
def test_keys_that_decide_training_change_it(change):
    assert key() != key(**change)


def test_evaluation_depends_on_its_own_section_and_its_input():
    assert key("evaluate", ("run-a",)) != key("evaluate", ("run-b",))
    assert key("evaluate", ("a",)) != key("evaluate", ("a",), eval__mode="syn")
    assert key("evaluate", ("a",)) == key("evaluate", ("a",), train__lr="0.5")


def test_a_part_from_outside_is_followed_by_content(tmp_path):
    part = tmp_path / "metric.py"
    part.write_text("def m(synthetic, real):\n    return {'m': 1.0}\n")
    config, card = compose({"eval.metrics": f"['{part}:m']"})
    before = fingerprint("evaluate", config, card)
    part.write_text("def m(synthetic, real):\n    return {'m': 2.0}\n")
    assert fingerprint("evaluate", config, card) != before


def test_the_card_version_counts():
    config, card = compose({})
    newer = card.model_copy(update={"version": 2})
    assert fingerprint("train", config, card) != fingerprint("train", config, newer)
