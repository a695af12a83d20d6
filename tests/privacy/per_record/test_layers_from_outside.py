"""Layers that nobody foresaw: a strategy that cannot run one is out, and what none may run is refused by name."""

import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dpib.distributed import World
from dpib.errors import UserError
from dpib.privacy.gradients import prepare
from dpib.privacy.ledger import BudgetError
from dpib.privacy.per_record import autotune
from dpib.privacy.per_record.probes import Probes
from dpib.privacy.per_record.refuse import refuse
from dpib.privacy.rng import NoiseSource
from tests.privacy.nets import Denoise, Net, Sequence, flat, make, plan, spec, toy


class Model(nn.Module):
    """One convolution `conv`, whose output `around` turns into the model's."""

    def __init__(self, around, **parts):
        super().__init__()
        self.conv, self.around = nn.Conv2d(1, 1, 3, padding=1), around
        for name, value in parts.items():
            setattr(self, name, value)

    def forward(self, x, y):
        return self.around(self, self.conv(x), y).view(-1, 1, 8, 8)


def weight_normed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that is why it is called the old one
        return Sequence(nn.utils.weight_norm(nn.Conv2d(1, 1, 3, padding=1)))


def autocast(m, h, y):
    with torch.autocast("cpu", torch.bfloat16):
        return m.linear(h.flatten(1)).float()


RUN = {
    "layer norm without bias": lambda: Sequence(nn.Conv2d(1, 1, 1), nn.LayerNorm([8, 8], bias=False)),
    "group norm on rows": lambda: Sequence(nn.Flatten(), nn.GroupNorm(4, 64), nn.Unflatten(1, (1, 8, 8))),
    "a keyword": lambda: Model(lambda m, h, y: m.linear(input=h.flatten(1)), linear=nn.Linear(64, 64)),
    "embedding bag": lambda: Model(lambda m, h, y: h.flatten(1) + m.bag(y[:, None]), bag=nn.EmbeddingBag(3, 64)),
    "sparse embedding": lambda: Model(
        lambda m, h, y: h.flatten(1) + m.table(y), table=nn.Embedding(3, 64, sparse=True)
    ),
    "embedding with padding": lambda: Model(
        lambda m, h, y: h.flatten(1) + m.table(y), table=nn.Embedding(3, 64, padding_idx=1)
    ),
    "lstm cell": lambda: Model(lambda m, h, y: m.cell(h.flatten(1))[0], cell=nn.LSTMCell(64, 64)),
    "bilinear": lambda: Model(lambda m, h, y: m.both(h.flatten(1), h.flatten(1)), both=nn.Bilinear(64, 64, 64)),
    "scalar parameter": lambda: Model(lambda m, h, y: m.scale * h, scale=nn.Parameter(torch.tensor(2.0))),
    "weight norm by the old hook": weight_normed,
    "a change in place": lambda: Model(lambda m, h, y: m.linear(h.relu_().flatten(1)), linear=nn.Linear(64, 64)),
    "autocast": lambda: Model(autocast, linear=nn.Linear(64, 64)),
}


def prepared(model, **how):
    (charge,) = plan(count=1, rate=1.0, sigma=1e-9)
    steps = prepare(toy(6), charge, Denoise(1), model, spec(**how), NoiseSource(0), World())
    return steps.choice.name, flat(next(iter(steps)).of)


@pytest.mark.parametrize("layer", RUN)
def test_a_layer_that_keeps_records_apart_runs_by_some_strategy(layer):
    network = make(RUN[layer])
    before = flat(network.parameters())
    _, found = prepared(network, strategy="auto")
    _, expected = prepared(network, strategy="loop")
    assert float(expected.norm()) > 0
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    assert torch.equal(flat(network.parameters()), before)


def overwritten(m, h, y):
    with torch.no_grad():
        m.level.copy_(h.mean())
    return h + m.level


def running(m, h, y):
    m.mean = 0.9 * m.mean + 0.1 * float(h.mean())
    return h - m.mean


def listed(m, h, y):
    m.kept[0] = h.detach()
    return h


def saved_output_changed(m, h, y):
    return m.out(torch.sigmoid(h).add_(1))


class Reentrant(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return checkpoint(self.layer, x, use_reentrant=True)


class Broken(nn.Module):
    def forward(self, x):
        raise LookupError("no such thing")


def hooked():
    model = Sequence(nn.Conv2d(1, 1, 1))
    model.layers[0].weight.register_hook(lambda gradient: 2 * gradient)
    return model


MEMORY = []


def remembered(m, h, y):
    MEMORY.append(float(h.abs().mean()))
    return h * sum(MEMORY)


def frozen(value):
    return nn.Parameter(torch.tensor(value), requires_grad=False)


REFUSED = {
    "parameter level changes in the forward pass": lambda: Model(overwritten, level=frozen(0.0)),
    "table is Embedding with max_norm": lambda: Model(
        lambda m, h, y: h.flatten(1) + m.table(y), table=nn.Embedding(3, 64, max_norm=100.0)
    ),
    "attribute mean changes in the forward pass": lambda: Model(running, mean=0.0),
    "attribute kept changes in the forward pass": lambda: Model(listed, kept=[None]),
    r"layers\.0\.weight has a hook": hooked,
    "layers.1 is Reentrant, which has no gradient record by record": lambda: Sequence(nn.Conv2d(1, 1, 1), Reentrant()),
    r"layers\.1 is Broken, .*no such thing": lambda: Sequence(nn.Conv2d(1, 1, 1), Broken()),
    "the model is Model, which has no gradient record by record .*inplace operation": lambda: Model(
        saved_output_changed, out=nn.Conv2d(1, 1, 1)
    ),
    "depends on the records before it": lambda: Model(remembered),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_carries_records_or_has_no_gradient_is_refused_in_one_line_that_names_it(why):
    network = make(REFUSED[why])
    before = flat(network.parameters())
    with pytest.raises(UserError, match=why) as caught:
        prepared(network, strategy="auto")
    assert "\n" not in str(caught.value)
    assert torch.equal(flat(network.parameters()), before)


@pytest.mark.parametrize(
    "mixes",
    [lambda x: x - x.mean(0), lambda x: x.flip(0), lambda x: x * (x.amax() == 1), lambda x: x + (len(x) > 1)],
    ids=["mean", "exchanged", "rare branch", "number of records"],
)
def test_a_loss_that_draws_rows_from_other_records_is_refused(mixes):
    class Mixing(Denoise):
        def rows(self, x, y, draws):
            clean, *others = super().rows(x, y, draws)
            return mixes(clean), *others

    probes = Probes(Mixing(2), (1, 8, 8), 3, torch.device("cpu"))
    with pytest.raises(UserError, match="the loss draws rows of a record from the records beside it"):
        refuse(make(Net), Mixing(2), probes)


def test_every_label_is_probed():
    """Opacus gives the row of `padding_idx` a gradient; three random labels need not contain it."""
    for label in range(3):
        network = make(
            lambda k=label: Model(lambda m, h, y: h.flatten(1) + m.table(y), table=nn.Embedding(3, 64, padding_idx=k))
        )
        with pytest.raises(UserError, match="'hooks' does not fit this model: its sum differs"):
            prepared(network, strategy="hooks")


@pytest.mark.parametrize(
    "rare",
    [
        lambda x: bool((x == x[:1]).all()) and len(x) > 1,
        lambda x: bool((x.flatten(1).std(1) < 0.01).all()),
        lambda x: bool((x.abs() > 0.99).all()),
    ],
    ids=["all equal", "all black", "extreme values"],
)
def test_a_branch_that_random_images_never_take_is_seen_on_structured_ones(rare):
    """Where the batch looks like that, the layer takes the mean over its records away."""

    class Clean(Denoise):
        def per_row(self, model, clean, noise, y, weight):
            return model(clean, y).sub(noise).pow(2).flatten(1).mean(1)

    class Rare(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x, y):
            h = self.conv(x)
            return h + h.mean(0) if rare(x) else h

    network, loss = make(Rare), Clean(1)
    probes = Probes(loss, (1, 8, 8), 3, torch.device("cpu"))
    with pytest.raises(UserError, match="'grouped' does not fit this model: its sum differs"):
        autotune.choose(network, loss, probes, "grouped", 4)


def test_a_parameter_that_a_rare_record_overwrites_stops_the_step(make_vault):
    """The check at the start never sees it: no made-up image has its first pixel at 7 and its last at 3."""

    def rare(m, h, y):
        if bool((m.seen[:, 0, 0, 0] == 7 / 127.5 - 1).any()):
            with torch.no_grad():
                m.level.copy_(h.mean())
        return h

    class Peek(Denoise):
        def per_row(self, model, clean, noise, y, weight):
            object.__setattr__(model, "seen", clean)
            try:
                return super().per_row(model, clean, noise, y, weight)
            finally:
                del model.seen

    images = toy(3)
    images.x[2, 0, 0, 0] = 7
    steps = make_vault(images, plan(count=2)).gradients(
        "sgd", Peek(1), make(lambda: Model(rare, level=frozen(0.0))), spec()
    )
    with pytest.raises(BudgetError, match="parameter level changed in a forward pass of 'sgd'; nothing was released"):
        list(itertools.islice(steps, 1))
