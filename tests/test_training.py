"""The loop: resumption to the last bit, averages, and nothing of a private step seen before it is kept."""

import pytest
import torch
from torch import nn

from dpib import seeding, training
from dpib.distributed import World
from dpib.images import Images
from dpib.nn.ema import MovingAverage
from dpib.training import Gradients, constant, done, fit, shared


class Notebook:
    """A log that remembers what happened in which order, and can die at a save."""

    def __init__(self, snapshot=None, dies_after=None):
        self.snapshot, self.dies_after, self.events = snapshot, dies_after, []

    def say(self, text):
        self.events.append(("say", text))

    def curve(self, name, value, step):
        self.events.append(("curve", step))

    def grid(self, name, images, step):
        self.events.append(("grid", step))

    def save(self, state):
        self.snapshot = {**state, "model": {k: v.clone() for k, v in state["model"].items()}}
        self.events.append(("save", state["step"]))
        if self.dies_after is not None and state["step"] >= self.dies_after:
            raise KeyboardInterrupt

    def restored(self):
        return self.snapshot


def model():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def public_loss(network):
    def loss(step):
        x = torch.randn(5, 3, generator=seeding.generator(0, step))
        return (network(x) - x.sum(1, keepdim=True)).square().mean()

    return loss


def run(log, steps=20, private=False, **more):
    network = model()
    average = MovingAverage(network, 0.9)
    gradients = shared(public_loss(network), network, done(log, "train"), World())
    if private:
        gradients = (Gradients(g.of, None) for g in gradients)
    optimizer = torch.optim.Adam(network.parameters())
    blank = Images(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    fit(
        network, gradients, optimizer, steps=steps, lr=constant(0.1), streams={}, log=log, name="train",
        preview=lambda: blank, average=average, **more,
    )  # fmt: skip
    return network, average


def test_a_training_cut_off_and_resumed_equals_an_unbroken_one_with_its_average(monkeypatch):
    unbroken = run(Notebook())
    monkeypatch.setattr(training, "SNAPSHOT_SECONDS", 0.0)
    first = Notebook(dies_after=7)
    with pytest.raises(KeyboardInterrupt):
        run(first)
    assert done(first, "train") == first.snapshot["step"] >= 7
    second = Notebook(first.snapshot)
    resumed = run(second)
    for a, b in zip(unbroken, resumed, strict=True):
        network_a, network_b = getattr(a, "network", a), getattr(b, "network", b)
        assert all(torch.equal(x, y) for x, y in zip(network_a.parameters(), network_b.parameters(), strict=True))
    assert ("say", f"train: resumed at step {first.snapshot['step']} of 20") in second.events


def test_private_steps_are_kept_before_they_are_shown():
    log = Notebook()
    run(log, private=True)
    grids = [i for i, (kind, _) in enumerate(log.events) if kind == "grid"]
    assert len(grids) == 10
    for i in grids:
        saved = [step for kind, step in log.events[:i] if kind == "save"]
        assert saved[-1] == log.events[i][1]
    assert not any(kind == "curve" for kind, _ in log.events)


def test_public_steps_need_no_snapshot_to_be_shown():
    log = Notebook()
    run(log)
    assert [step for kind, step in log.events if kind == "save"] == [20]
    assert any(kind == "curve" for kind, _ in log.events)


def test_a_snapshot_holds_the_training_and_no_privacy_generator():
    log = Notebook()
    run(log)
    assert set(log.snapshot) == {"name", "step", "model", "optimizer", "streams", "average", "others"}
    assert log.snapshot["streams"] == log.snapshot["others"] == {}


def test_the_snapshot_of_another_training_is_not_taken():
    log = Notebook()
    run(log)
    assert done(log, "pretrain") == 0


def test_shares_of_two_processes_add_up_to_the_whole():
    class Other(World):
        """A world of two in which the other process computed the same share."""

        def all_reduce_sum(self, tensor):
            return tensor.mul_(2)

    network = model()
    whole = next(shared(public_loss(network), network, 0, World()))
    halves = next(shared(lambda step: public_loss(network)(step) / 2, network, 0, Other(size=2)))
    assert all(torch.allclose(a, b) for a, b in zip(whole.of, halves.of, strict=True))
    assert torch.allclose(whole.loss, halves.loss)
