"""Every strategy gives the record loop's sum, on the layers and models that are in use."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dpib.diffusion.loss import DenoisingLoss, LossSettings
from dpib.privacy.per_record import base, layers, loop
from dpib.privacy.per_record.autotune import STRATEGIES, load
from dpib.privacy.per_record.base import Unsupported, norms, trainable
from dpib.privacy.per_record.draws import draw
from tests.privacy.nets import Denoise, Diffusers, Net, Sequence, flat, make, toy

OTHERS = [name for name in STRATEGIES if name != "loop"]


class Adapted(nn.Module):
    """A frozen network with a trainable low-rank detour around one of its layers (Hu et al. 2022, LoRA)."""

    def __init__(self):
        super().__init__()
        self.net = Net().requires_grad_(False)
        self.down, self.up = nn.Linear(64, 2, bias=False), nn.Linear(2, 64, bias=False)

    def forward(self, x, y):
        return self.net(x, y) + self.up(self.down(x.flatten(1))).view_as(x)


class Partly(Net):
    """Some layers frozen, of some others only the bias."""

    def __init__(self):
        super().__init__()
        self.norm.requires_grad_(False)
        self.leave.requires_grad_(False)
        self.enter.weight.requires_grad_(False)


class Twice(nn.Module):
    """One convolution used twice, and one linear layer that no gradient reaches."""

    def __init__(self):
        super().__init__()
        self.conv, self.idle = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(2, 2)

    def forward(self, x, y):
        return self.conv(torch.tanh(self.conv(x)))


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x, y):
        return self.second(torch.tanh(self.first(x)))


MODELS = {
    "net": Net,
    "diffusers": Diffusers,
    "adapted": Adapted,
    "partly": Partly,
    "twice": Twice,
    "tied": Tied,
    "1x1": lambda: Sequence(nn.Conv2d(1, 4, 1), nn.GroupNorm(1, 4), nn.Conv2d(4, 1, 5, padding=4, dilation=2)),
}


def sums(name, model, loss, clip, images=None):
    images = toy(5) if images is None else images
    rows = draw(loss, images, torch.arange(len(images)), 0, 0, torch.device("cpu"))
    return flat(loop.clipped_sum(model, loss, rows, clip)), flat(load(name)(model, loss, rows, clip))


@pytest.mark.parametrize("clip", [0.05, 1e6])
@pytest.mark.parametrize("multiplicity", [1, 3])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", OTHERS)
def test_a_strategy_equals_the_loop(name, model, multiplicity, clip):
    network, loss = make(MODELS[model]), Denoise(multiplicity)
    if name == "hooks" and multiplicity > 1:
        with pytest.raises(Unsupported, match="multiplicity"):
            sums(name, network, loss, clip)
        return
    expected, found = sums(name, network, loss, clip)
    assert float(expected.norm()) > 0
    assert float((expected - found).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("name", OTHERS)
def test_a_strategy_is_right_on_channels_last_input(name):
    network = make(lambda: Sequence(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)))
    network.to(memory_format=torch.channels_last)
    expected, found = sums(name, network, Denoise(1, layout=torch.channels_last), 0.1)
    assert float((expected - found).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("answers_at_once", [("cpu",), ()], ids=["asked", "not asked"])
@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_record_without_a_finite_gradient_leaves_the_others_alone(name, scale, answers_at_once, monkeypatch):
    """1e30 overflows in the square of the norm, not in the gradient."""
    monkeypatch.setattr(base, "_ANSWERS_AT_ONCE", answers_at_once)
    images = toy(4, last=torch.full((1, 8, 8), 255, dtype=torch.uint8))
    network, loss = make(Net), Denoise(1, scale)
    _, poisoned = sums(name, network, loss, 0.1, images)
    _, without = sums(name, network, loss, 0.1, images.take(slice(0, 3)))
    assert torch.isfinite(poisoned).all()
    assert float((poisoned - without).norm() / without.norm()) < 1e-6


class Asked(TorchDispatchMode):
    """Notes every operation whose answer the host would wait for, were this a GPU."""

    waits = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.seen, self.waited = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::").partition(".")[0]
        self.seen += 1
        if name in self.waits:
            self.waited.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("answers_at_once", [("cpu",), ()], ids=["asked", "not asked"])
def test_a_chunk_is_drawn_clipped_and_summed_without_an_answer_to_wait_for(answers_at_once, monkeypatch):
    monkeypatch.setattr(base, "_ANSWERS_AT_ONCE", answers_at_once)
    monkeypatch.setattr(DenoisingLoss, "per_row", lambda self, model, *rows: model(rows[0], rows[3]).mean((1, 2, 3)))
    network, loss = make(Net), DenoisingLoss(LossSettings(), 3, 4)
    with Asked() as asked:
        rows = draw(loss, toy(6), torch.arange(6), 0, 0, torch.device("cpu"))
        load("grouped")(network, loss, rows, 0.1)
    assert asked.seen > 100
    assert asked.waited == ["_local_scalar_dense"] * len(answers_at_once)


@pytest.mark.parametrize("multiplicity", [1, 8])
def test_the_loop_is_autograd_of_the_mean_over_draws_record_by_record(multiplicity):
    network, loss, images = make(Net), Denoise(multiplicity), toy(3)
    expected = torch.zeros(sum(p.numel() for p in network.parameters()), dtype=torch.float64)
    rows = draw(loss, images, torch.arange(3), 0, 0, torch.device("cpu"))
    for i in range(3):
        network.zero_grad()
        loss.per_row(network, *(row[i] for row in rows)).mean().backward()
        gradient = flat(p.grad for p in network.parameters())
        expected += gradient * min(1, 0.3 / float(gradient.norm()))
    network.zero_grad()
    assert torch.allclose(flat(loop.clipped_sum(network, loss, rows, 0.3)), expected, atol=1e-7)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_leaves_the_model_as_it_was(name):
    network = make(Net)
    before = [set(vars(m)) for m in network.modules()], [set(vars(p)) for p in network.parameters()]
    values = flat(network.parameters())
    sums(name, network, Denoise(1), 0.1)
    assert ([set(vars(m)) for m in network.modules()], [set(vars(p)) for p in network.parameters()]) == before
    assert all(p.grad is None for p in network.parameters())
    assert not any(m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in network.modules())
    assert torch.equal(flat(network.parameters()), values)


def test_grouped_refuses_parameters_that_it_cannot_follow():
    class Outside(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x, y):
            return nn.functional.linear(x, self.layer.weight)

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(8))

        def forward(self, x, y):
            return x + self.shift

    for kind, why in ((Outside, "outside the forward pass"), (Bare, "Bare")):
        with pytest.raises(Unsupported, match=why):
            sums("grouped", make(kind), Denoise(1), 0.1)
        expected, found = sums("vmap", make(kind), Denoise(1), 0.1)
        assert torch.allclose(expected, found, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "kernel", [{"kernel_size": 3, "padding": 1}, {"kernel_size": (3, 1), "stride": 2, "dilation": 2}]
)
def test_all_ways_to_take_a_convolutions_weight_gradient_agree(kernel, groups):
    """Some are for CPUs, one for GPUs; all run anywhere."""
    layer = make(lambda: nn.Conv2d(8, 16, groups=groups, **kernel))
    x = torch.randn(3, 2, 8, 9, 9, generator=torch.Generator().manual_seed(0))
    gy = torch.tanh(layer(x.flatten(0, 1)).detach()).unflatten(0, (3, 2))
    ways = (layers.one_by_one, layers.unfolded, layers.group_by_record)
    one_by_one, *others = (way(layer, layer.weight, gy, x) for way in ways)
    for found in others:
        assert torch.allclose(one_by_one, found, atol=1e-4)
    layer.zero_grad()
    layer(x[1]).backward(gy[1])
    assert torch.allclose(one_by_one[1], layer.weight.grad, atol=1e-4)


def test_shared_parameters_are_counted_once():
    assert len(trainable(make(Tied))) == 3


class Total:
    """The sum of a network's outputs, so that every weight of its layer has a gradient of the same kind."""

    multiplicity = 1

    def rows(self, x, y, draws):
        return (x[:, None].float() / 255,)

    def per_row(self, model, x):
        return model(x, None).flatten(1).sum(1)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_clip_holds_for_a_layer_on_which_a_float32_norm_falls_short(name):
    network = Sequence(nn.Flatten(), nn.Linear(64, 2**16))
    rows = draw(Total(), toy(1), torch.arange(1), 0, 0, torch.device("cpu"))
    (weight, bias) = loop.clipped_sum(network, Total(), rows, 1e9)
    assert float(torch.cat([weight.flatten(), bias]).norm()) < (1 - 1e-5) * float(flat([weight, bias]).norm())
    found = flat(load(name)(network, Total(), rows, 0.5)).norm()
    assert float(found) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("length", [1, 63, 1023, 1024, 1025, 5000, 17_000_001])
def test_a_norm_is_right_for_any_length(length):
    row = torch.linspace(0.5, 1.5, length)[None]
    for scale in (1e-12, 1.0, 1e14):
        (found,) = norms([scale * row, scale * row[:, :1]])
        expected = torch.cat([scale * row, scale * row[:, :1]], 1).double().norm()
        assert float(found) == pytest.approx(float(expected), rel=1e-6)
