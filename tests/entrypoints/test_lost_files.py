"""What was deleted from a store, or never in it: one line that says which, and the same command makes it again."""

import errno

import pytest

from dpib.tracking import Store
from tests.entrypoints.calling import call, flags, last_line, run_id


@pytest.fixture
def chain(tiny, tracking_uri):
    """Return the runs of a training and of the images drawn from it."""
    trained = run_id(call("train", *flags(tiny)))
    return trained, run_id(call("generate", f"--train_run={trained}"))


def test_a_deleted_checkpoint_is_told_from_one_that_never_was(chain, tracking_uri):
    trained, generated = chain
    Store(tracking_uri).fetch(trained, "checkpoints/final.safetensors").unlink()
    line = last_line(call("generate", f"--train_run={trained}", "--generate.images=130"))
    assert f"run {trained} has lost its artifact checkpoints/final.safetensors (put it back, or give" in line
    assert "a train run is needed" in last_line(call("generate", f"--train_run={generated}"))


def test_deleted_images_are_named_and_drawn_again_by_the_same_command(chain, tracking_uri):
    trained, generated = chain
    store = Store(tracking_uri)
    store.fetch(generated, "gen/gen.npz").unlink()
    line = last_line(call("evaluate", f"--generate_run={generated}"))
    assert f"run {generated} has lost its artifact gen/gen.npz" in line
    again = run_id(call("generate", f"--train_run={trained}"))
    assert again != generated
    assert call("evaluate", f"--generate_run={again}").exit_code == 0


def test_main_makes_anew_what_was_deleted_and_trains_under_a_new_charge(chain, tiny, tracking_uri):
    trained, generated = chain
    store = Store(tracking_uri)
    for run, file in ((trained, "checkpoints/final.safetensors"), (generated, "gen/gen.npz")):
        store.fetch(run, file).unlink()
    result = call("main", *flags(tiny))
    assert result.exit_code == 0, result.output
    assert f"reusing run {trained}" not in result.output
    assert "best by DP selection" in result.output


def test_a_disk_too_full_for_inception_weights_ends_the_run_and_nothing_stands_in(tiny, tracking_uri, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", "/full/inception.pth")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", full)
    line = last_line(call("main", *flags({**tiny, "eval.embedding": "inception"})))
    assert line.startswith("Error: the disk is full while writing /full/inception.pth: free some space")
