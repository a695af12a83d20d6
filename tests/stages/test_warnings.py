"""What a run goes on with, and says: a large delta, a set without a class, a method without its pretraining."""

import numpy as np
import pytest

from dpib.config import compose
from dpib.errors import UserError
from dpib.pipeline import file_digest, run_evaluate, run_main, run_train


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
