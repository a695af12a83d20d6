"""What a run goes on with, and says: a large delta, a set without a class, a method without its pretraining."""

import mlflow
import numpy as np
import pytest

from dpib.chain import run_train
from dpib.config import compose
from dpib.data.catalog import Counts, Sizes, find_card
from dpib.errors import UserError
from dpib.pipeline import run_evaluate, run_main
from dpib.stages.evaluate import one_class
from dpib.stages.fidelity import require_weights
from dpib.upstream import file_digest


def test_a_large_delta_is_warned_of_in_the_log_and_the_statement(store, tiny, capsys):
    config, card = compose({**tiny, "delta": "0.9", "large_delta": "true"})
    run = run_train(config, card, store).run_id
    assert "train: warning: delta 0.9 is above 1/150" in capsys.readouterr().err
    assert "**Warning:** delta 0.9" in store.fetch(run, "privacy/statement.md").read_text()


def test_a_set_without_a_class_is_judged_with_a_warning(store, tiny, tmp_path, capsys):
    config, card = compose({**tiny, "eval.mode": "syn", "yardstick": "none", "eval.schedule.epochs": "1"})
    x = np.random.default_rng(0).random((90, 28, 28), dtype=np.float32)
    np.savez(tmp_path / "gen.npz", x=x, y=np.arange(90) % 9)
    run_evaluate(config, card, store, tmp_path / "gen.npz", file_digest(tmp_path / "gen.npz"))
    assert "evaluate: warning: the set has no image of 1 of 10 classes: 9" in capsys.readouterr().err


@pytest.mark.parametrize("go", [run_train, run_main])
def test_what_goes_on_from_public_images_is_refused_before_the_first_stage(store, go):
    config, card = compose({"method": "pdp-diffusion"})
    with pytest.raises(UserError, match=r"goes on from public images: give -P public="):
        go(config, card, store)


@pytest.mark.parametrize(
    ("needed", "keys"),
    [
        (True, {}),
        (False, {"yardstick": "none"}),
        (False, {"eval.embedding": "random"}),
        (False, {"eval.inception_weights": "none"}),
    ],
)
def test_weights_that_are_needed_and_not_there_are_refused_before_the_first_stage(store, tiny, needed, keys):
    missing = {"eval.embedding": "inception", "eval.inception_weights": "/nowhere.pth", **keys}
    config, card = compose({**tiny, **missing})
    if not needed:
        require_weights(config)
        return
    with pytest.raises(UserError, match=r"/nowhere\.pth do not exist"):
        run_main(config, card, store)
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []


def test_an_accuracy_that_one_class_explains_says_nothing(digits_root):
    counts = Counts(train=[50, 50], test=[2000, 500])
    digits = find_card("digits_28", digits_root)
    card = digits.model_copy(update={"sizes": Sizes(train=100, test=2500), "counts": counts, "classes": ["a", "b"]})
    # Two standard errors of 80 % of 2,500 images are 1.6 points.
    assert "80.0 % of the test images are of class 'a' alone" in one_class(card, 81.5)
    assert one_class(card, 81.7) is None
    assert one_class(card, None) is None
