"""The race of classifiers: who is counted, who is tested, and what an interruption repeats."""

import shutil
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
import torch

from dpib.config import compose
from dpib.data.synthetic import read_gen
from dpib.distributed import World
from dpib.errors import UserError
from dpib.follower import SilentLog
from dpib.images import Images
from dpib.pipeline import run_evaluate, run_main
from dpib.privacy.vault import Vault
from dpib.stages import evaluate as evaluation
from dpib.stages import judge
from dpib.stages.context import Context

CANDIDATES = {f"{name}/{epoch}" for name in ("resnet", "wrn") for epoch in range(2)}


@pytest.fixture
def gen(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "gen.npz", x=rng.integers(0, 256, (120, 28, 28), dtype=np.uint8), y=np.arange(120) % 10)
    return tmp_path / "gen.npz"


@pytest.fixture
def tested(monkeypatch):
    """Return the list of candidates that were tried on test images so far."""
    found, original = [], evaluation.tester

    def watched(yardstick):
        test = original(yardstick)
        return lambda name, predict: found.append(name) or test(name, predict)

    monkeypatch.setattr(evaluation, "tester", watched)
    return found


@pytest.fixture
def counted(monkeypatch):
    """Return the list of candidates that were counted on held-out images so far."""
    found, original = [], Vault.score
    monkeypatch.setattr(Vault, "score", lambda self, name, predict: found.append(name) or original(self, name, predict))
    return found


def evaluated(store, tiny, gen, **overrides):
    config, card = compose({**tiny, **overrides})
    return run_evaluate(config, card, store, gen, "x")


def test_every_candidate_is_counted_and_only_the_selected_are_tested(store, tiny, gen, tested, counted):
    evaluated(store, tiny, gen)
    assert set(counted) == CANDIDATES
    assert len(tested) == len(set(tested)) <= 3  # one per classifier, and the joint one
    assert {name.partition("/")[0] for name in tested} == {"resnet", "wrn"}


@pytest.mark.parametrize("asked", [{"oracle": "true"}, {"eval.mode": "sen"}])
def test_all_are_tested_where_that_is_asked_for(store, tiny, gen, tested, asked):
    evaluated(store, tiny, gen, **asked)
    assert set(tested) == CANDIDATES


def test_without_a_yardstick_nobody_is_tested(store, tiny, gen, tested):
    evaluated(store, tiny, gen, yardstick="none")
    assert tested == []


def test_what_was_trained_counted_and_selected_before_a_kill_is_not_done_again(store, tiny, gen, monkeypatch):
    noise = {"unsafe_noise_seed": "4", "reuse": "false"}
    unbroken = evaluated(store, tiny, gen, **noise)
    original = judge.test_winners
    monkeypatch.setattr(judge, "test_winners", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluated(store, tiny, gen, **noise)
    monkeypatch.setattr(judge, "test_winners", original)
    monkeypatch.setattr(judge, "train_classifier", None)
    monkeypatch.setattr(Vault, "score", None)
    monkeypatch.setattr("dpib.privacy.rng.NoiseSource.laplace", None)
    resumed = evaluated(store, tiny, gen, **noise)
    names = [name for name in unbroken.metrics if name.startswith("utility/")]
    assert len(names) == 6
    assert {k: resumed.metrics[k] for k in names} == {k: unbroken.metrics[k] for k in names}


@pytest.fixture
def stage(tiny, gen, tmp_path):
    """Return (context, synthetic images) of an evaluation that tracks nothing."""
    config, card = compose(tiny)
    log = SilentLog(tmp_path / "private" / "snapshot.safetensors", keeps=True)
    folders = tmp_path / "artifacts", tmp_path / "private"
    for folder in folders:
        folder.mkdir()
    context = Context(config, card, torch.device("cpu"), *folders, log, World())
    return context, read_gen(gen, card)[0]


def nobody(name, predict):
    raise AssertionError(f"{name} is tested before it is selected")


def test_kept_weights_predict_what_the_epoch_did(stage):
    context, images = stage
    then = {}
    race = judge.race(context, images, lambda name, predict: then.update({name: predict(images.x)}), nobody)
    winners = {name: name for name in then}
    judge.test_winners(context, race, winners, lambda name, predict: predict(images.x) == then[name])
    assert race.test == dict.fromkeys(CANDIDATES, 100.0)
    assert len({tuple(labels.tolist()) for labels in then.values()}) > 1


@pytest.mark.parametrize("bound", ["weights", "disk"])
def test_weights_that_are_too_large_to_keep_are_tested_at_once(stage, monkeypatch, bound):
    context, images = stage
    if bound == "disk":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**5))
    else:
        monkeypatch.setattr(judge, "_MOST_KEPT", 10**5)
    race = judge.race(context, images, None, lambda name, predict: predict(images.x) == images.y)
    assert set(race.test) == CANDIDATES
    assert not (context.private / "epochs").exists()
    judge.test_winners(context, race, {"best": "wrn/1"}, nobody)


@pytest.mark.parametrize("n", [2, 21])
def test_images_that_do_not_fill_a_batch_are_refused_before_the_first_stage(store, tiny, n, gen):
    config, card = compose({**tiny, "generate.images": str(n)})
    with pytest.raises(UserError, match=f"of {n} synthetic images .* one batch of 20"):
        run_main(config, card, store)
    with np.load(gen) as content:
        np.savez(gen, x=content["x"][:n], y=content["y"][:n])
    with pytest.raises(UserError, match=f"of {n} synthetic images .* one batch of 20"):
        run_evaluate(config, card, store, gen, "x")


def test_more_images_than_memory_holds_are_refused_before_the_first_stage(store, tiny):
    config, card = compose({**tiny, "generate.images": str(10**12)})
    with pytest.raises(UserError, match=r"generate\.images=1000000000000: they take 1\.6e\+06 GB .* at most \d+ fit"):
        run_main(config, card, store)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        (
            "eval.classifiers",
            "{resnet: none, wrn: none, resnext: none}",
            "leave at least one of resnet, wrn and resnext",
        ),
        ("eval.classifiers.wrn", "{depth: 11, widen: 1}", r"eval\.classifiers\.wrn\.depth: depth 11 is not 6 n \+ 4"),
        ("eval.classifiers.resnext", "{depth: 12, cardinality: 2, widen: 2}", r"depth 12 is not 9 n \+ 2"),
    ],
)
def test_classifiers_that_do_not_exist_are_refused_when_read(tiny, key, value, says):
    kept = {k: v for k, v in tiny.items() if not k.startswith(key)}
    with pytest.raises(UserError, match=says):
        compose({**kept, key: value})


def test_synthetic_images_that_train_and_those_held_out_are_apart(tiny):
    images = Images(torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1), torch.zeros(100, dtype=torch.int64))
    for most, expected in ((None, 80), (30, 30)):
        config, _ = compose({**tiny, "eval.syn_holdout": "0.2", "eval.images": str(most).lower()})
        fitted, held = judge.hold_out(config, images)
        assert (len(fitted), len(held)) == (expected, 20)
        assert not set(fitted.x.flatten().tolist()) & set(held.x.flatten().tolist())


def test_curves_and_lines_of_every_epoch_are_told(store, tiny, gen, capsys):
    config, card = compose({**tiny, "eval.mode": "syn", "eval.classifiers.wrn": "none"})
    run = run_evaluate(config, card, store, gen, "x").run_id
    for name in ("loss", "synthetic_accuracy"):
        points = mlflow.MlflowClient().get_metric_history(run, f"utility/resnet/{name}")
        assert [point.step for point in points] == [0, 1]
    said = capsys.readouterr().err
    assert all(f"evaluate: resnet epoch {number}: loss" in said for number in (1, 2))
    assert "resnet epoch 0" not in said


def test_weights_are_kept_up_to_their_bound_and_half_the_disk(stage, monkeypatch):
    context, _ = stage
    made = [judge.network(context, name) for name in ("resnet", "wrn")]
    needed = 2 * sum(t.nbytes for m in made for t in m.state_dict().values())
    for bound, free, kept in (
        (needed, 10**12, True),
        (needed - 1, 10**12, False),
        (needed, 2 * needed, True),
        (needed, 2 * needed - 1, False),
    ):
        monkeypatch.setattr(judge, "_MOST_KEPT", bound)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert judge._keepable(context) is kept


def test_a_classifier_is_called_failed_below_one_and_a_half_times_chance():
    syn = {"at/0": 30.0, "below/0": 29.9, "once/0": 10.0, "once/1": 30.0}
    assert judge.diverged(judge.Race(syn=syn, losses=dict.fromkeys(syn, 1.0)), 5) == ["below"]


def test_a_batch_that_is_just_filled_is_enough(tiny):
    # Of 22 images a tenth is held out and 20 are left.
    config, _ = compose({**tiny, "eval.schedule.batch": "20", "eval.syn_holdout": "0.1"})
    judge.require_enough(config, 22)
    with pytest.raises(UserError, match="of 21 synthetic images 2 are held out"):
        judge.require_enough(config, 21)


def test_what_a_run_says_of_its_classifiers(store, tiny, gen, monkeypatch, capsys):
    original = judge.train_classifier

    def dies(made, images, schedule, seed, name, *more):
        if name == "wrn":
            raise KeyboardInterrupt
        return original(made, images, schedule, seed, name, *more)

    monkeypatch.setattr(judge, "train_classifier", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluated(store, tiny, gen, **{"eval.schedule.lr": "1e-9"})
    monkeypatch.setattr(judge, "train_classifier", original)
    monkeypatch.setattr(evaluation, "one_class", lambda card, best: f"{card.name} at {best:.0f}")
    best = evaluated(store, tiny, gen, **{"eval.schedule.lr": "1e-9"}).metrics["utility/accuracy_best"]
    told = capsys.readouterr().err
    assert "evaluate: resnet was finished before the interruption" in told
    assert "wrn was finished" not in told
    assert f"evaluate: warning: digits_28 at {best:.0f}" in told
    assert "evaluate: warning: wrn did not learn the synthetic images" in told
