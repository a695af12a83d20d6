"""`Vault.gradients`: charged before a record is read, no step twice or too many, unfit models refused by name."""

import itertools

import pytest
import torch
from torch import nn

from dpib.errors import UserError
from dpib.privacy.ledger import Account, BudgetError
from dpib.privacy.rng import NoiseSource
from tests.privacy.nets import Denoise, Net, Sequence, flat, make, plan, spec, toy


def test_the_charge_is_on_disk_before_a_record_is_read(make_vault, tmp_path):
    class Watched(NoiseSource):
        def bernoulli(self, n, probability):
            events = Account.parse((tmp_path / "v" / "ledger.json").read_text()).events
            assert [(e.id, e.count, e.rate, e.cap) for e in events] == [("train/sgd", 7, 0.5, 3)]
            raise RuntimeError("the power fails here")

    vault = make_vault(toy(4), plan(count=7, rate=0.5, cap=3), noise=Watched())
    with pytest.raises(RuntimeError, match="power"):
        next(vault.gradients("sgd", Denoise(1), make(Net), spec()))


def test_a_step_beyond_the_charge_is_refused(make_vault):
    steps = make_vault(toy(4), plan(count=3)).gradients("sgd", Denoise(1), make(Net), spec(start=1))
    assert len(list(itertools.islice(steps, 2))) == 2
    with pytest.raises(BudgetError, match="charged for 3 steps"):
        next(steps)


def test_a_step_is_never_released_twice(make_vault):
    vault = make_vault(toy(4), plan(count=5))
    list(itertools.islice(vault.gradients("sgd", Denoise(1), make(Net), spec()), 3))
    with pytest.raises(BudgetError, match="go on at step 3"):
        vault.gradients("sgd", Denoise(1), make(Net), spec(start=2))
    # After a crash what counts is what was persisted, which the resumed run tells by where it starts.
    resumed = make_vault(toy(4), plan(count=5))
    next(resumed.gradients("sgd", Denoise(1), make(Net), spec(start=2)))
    with pytest.raises(BudgetError, match="go on at step 2"):
        make_vault(toy(4), plan(count=5)).gradients("sgd", Denoise(1), make(Net), spec(start=1))
    assert len(resumed._ledger.account.events) == 1


def test_one_charge_is_for_one_iterator(make_vault):
    vault = make_vault(toy(4), plan(count=3))
    first = vault.gradients("sgd", Denoise(1), make(Net), spec())
    second = vault.gradients("sgd", Denoise(1), make(Net), spec())
    next(second)
    with pytest.raises(BudgetError, match="the charge is for one iterator"):
        next(first)
    assert len(list(itertools.islice(second, 2))) == 2


def test_what_was_not_planned_or_cannot_be_paid_is_refused(make_vault):
    with pytest.raises(BudgetError, match="no gaussian release named 'other'"):
        make_vault(toy(4), plan()).gradients("other", Denoise(1), make(Net), spec())
    with pytest.raises(BudgetError, match="over the budget"):
        make_vault(toy(4), plan(), epsilon=0.1, folder="poor").gradients("sgd", Denoise(1), make(Net), spec())


def test_a_failing_noise_source_releases_nothing(make_vault):
    class Broken(NoiseSource):
        def normal(self, shape):
            raise OSError("no entropy")

    steps = make_vault(toy(4), plan(), noise=Broken()).gradients("sgd", Denoise(1), make(Net), spec())
    with pytest.raises(OSError, match="no entropy"):
        next(steps)


def test_the_loss_stays_inside_and_the_model_is_left_as_found(make_vault):
    model = make(Net).eval()
    before = flat(model.parameters())
    step = next(make_vault(toy(4), plan()).gradients("sgd", Denoise(1), model, spec(strategy="auto")))
    assert step.loss is None
    assert [g.shape for g in step.of] == [p.shape for p in model.parameters()]
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(flat(model.parameters()), before)


class Counter(nn.Module):
    """Keeps a running sum of what passes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x, y):
        self.seen += x.mean()
        return self.layer(x)


REFUSED = {
    "layers.1 is BatchNorm2d": lambda: Sequence(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)),
    "layers.0 is BatchNorm2d": lambda: Sequence(nn.BatchNorm2d(1).requires_grad_(False), nn.Conv2d(1, 1, 1)),
    "layers.1 is InstanceNorm2d": lambda: Sequence(
        nn.Conv2d(1, 1, 1), nn.InstanceNorm2d(1, affine=True, track_running_stats=True)
    ),
    "layers.1 is LSTM": lambda: Sequence(nn.Conv2d(1, 1, 1), nn.LSTM(8, 8)),
    "buffer seen changes": Counter,
    "layers.0.weight is torch.bfloat16": lambda: Sequence(nn.Conv2d(1, 1, 1)).bfloat16(),
    "no trainable parameters": lambda: Net().requires_grad_(False),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_model_that_mixes_or_carries_records_is_refused_by_name(make_vault, why):
    vault = make_vault(toy(4), plan())
    with pytest.raises(UserError, match=why):
        vault.gradients("sgd", Denoise(1), make(REFUSED[why]), spec())
    assert vault._ledger.account.events == []


@pytest.mark.parametrize("wrong", [{"clip": 0}, {"clip": float("inf")}, {"splits": 2}, {"physical": 0}])
def test_a_spec_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"clip|splits|physical"):
        spec(**wrong)
