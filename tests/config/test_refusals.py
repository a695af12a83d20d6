"""Every kind of refusal, each in one line with the nearest right name."""

import re

import pytest

from dpib.config import compose
from dpib.config.compose import CONFIGS, layered
from dpib.config.sense import require_pretraining
from dpib.errors import UserError
from tests.config.outside import RECIPE

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


def test_an_unknown_profile_block_is_refused(tmp_path):
    text = (CONFIGS / "methods" / "dp-merf.yaml").read_text().replace("  smoke:", "  smok:")
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UserError, match="unknown profile 'smok'"):
        layered({"method": str(tmp_path / "m.yaml")})


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


@pytest.mark.parametrize("method", ["pdp-diffusion", "dp-ldm-sd"])
def test_what_goes_on_from_public_images_is_not_trained_from_nothing(method):
    config, _ = compose({"method": method})
    with pytest.raises(UserError, match=f"{method} goes on from public images: give -P public="):
        require_pretraining(config, started=False)
    require_pretraining(config, started=True)
    for key, value in (("public", "glyphs_28"), ("pretraining", "optional"), ("method", "dpdm"), ("method", "dp-merf")):
        require_pretraining(compose({"method": method, key: value})[0], started=False)


@pytest.mark.parametrize(
    ("body", "lacks"),
    [
        ("", "Settings of type Section, reads_public, charges, query, images"),
        ("Settings = LessonSettings", "reads_public, charges, query, images"),
        ("Settings = LessonSettings; reads_public = False; query = images = print", "charges"),
    ],
)
def test_a_lesson_from_outside_that_is_none_is_told_what_it_lacks(tmp_path, monkeypatch, body, lacks):
    monkeypatch.chdir(tmp_path)
    source = f"from dpib.diffusion.lessons.lesson import LessonSettings\nclass X:\n    Found = 1; {body}\n"
    (tmp_path / "bare.py").write_text(source)
    with pytest.raises(UserError, match=f"bare.py:X is no lesson, it lacks {lacks}: see"):
        compose({"method": "dp-feta", "dataset": "digits_28", "lessons": "[{kind: 'bare.py:X'}]"})
