"""Gradient features in closed form, against autograd; sums and inner products, against the rows themselves."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

from dpib import seeding
from dpib.kernels.embedding import embedding
from dpib.kernels.features import Dense, rows_of
from dpib.kernels.mmd import squared_mmd
from dpib.kernels.ntk import NtkFeatures, NtkSettings
from dpib.registry import chosen

CPU = torch.device("cpu")
SHAPE = (2, 5, 4)
ADVERSARIES = {
    "zeros": torch.zeros(SHAPE),
    "ones": torch.ones(SHAPE),
    "huge": torch.full(SHAPE, 1e6),
    "tiny": torch.full(SHAPE, 1e-30),
    "negative": torch.full(SHAPE, -1e6),
    "one pixel": torch.eye(40)[0].view(SHAPE),
}
NETWORKS = pytest.mark.parametrize("hidden", [[13], [11, 7]], ids=["one hidden layer", "two hidden layers"])


def ntk(hidden, outputs=3):
    settings = NtkSettings(kind="ntk", hidden=hidden, outputs=outputs)
    return NtkFeatures(settings, SHAPE, seeding.generator(0, "f"), CPU)


def images(n=12):
    return torch.rand(n, *SHAPE, generator=seeding.generator(0, "x"))


def network(features):
    """Return the same f as a module of torch's own layers, in float64."""
    linear = []
    for weight, bias in features.layers:
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = weight, bias
        linear.append(layer)
    width = linear[-1].in_features
    norm = torch.nn.LayerNorm(width, elementwise_affine=False)
    return torch.nn.Sequential(torch.nn.Flatten(), linear[0], torch.nn.ReLU(), *linear[1:-1], norm, linear[-1]).double()


def by_autograd(features, x):
    """Return every record's whole gradient over its norm, the copies of the last layer as they come."""
    f = network(features)
    parameters = {name: p.detach() for name, p in f.named_parameters()}
    gradients = vmap(grad(lambda p, one: functional_call(f, p, (one[None],)).sum()), (None, 0))(parameters, x.double())
    rows = torch.cat([g.flatten(1) for g in gradients.values()], 1)
    return rows / rows.norm(dim=1, keepdim=True)


@NETWORKS
@pytest.mark.parametrize("outputs", [1, 3, 40])
def test_the_closed_form_has_the_kernel_of_autograd(hidden, outputs):
    features, x = ntk(hidden, outputs), images()
    phi, reference = features.map(x), by_autograd(features, x)
    assert phi.shape == (12, features.dimension)
    assert float((phi.double() @ phi.double().T - reference @ reference.T).abs().max()) < 1e-5


@NETWORKS
def test_each_entry_is_a_parameters_gradient_and_copies_stand_once(hidden):
    features, x = ntk(hidden), images()
    phi, reference = features.map(x).double(), by_autograd(features, x)
    widths = [40, *hidden]
    begins = copied = 0
    for inputs, outputs in zip(widths, hidden, strict=False):
        own = phi[:, begins : begins + outputs * (inputs + 1)].view(12, outputs, inputs + 1)
        weights, bias = own[:, :, :-1].flatten(1), own[:, :, -1]
        theirs = reference[:, copied : copied + outputs * (inputs + 1)]
        assert torch.allclose(torch.cat([weights, bias], 1), theirs, atol=1e-5)
        begins, copied = begins + outputs * (inputs + 1), copied + outputs * (inputs + 1)
    last = reference[:, copied:]
    for copy in (*last[:, : 3 * hidden[-1]].split(hidden[-1], 1),):
        assert torch.allclose(phi[:, begins:-1], math.sqrt(3) * copy, atol=1e-5)
    assert torch.allclose(phi[:, -1:], math.sqrt(3) * last[:, -1:], atol=1e-5)


@NETWORKS
def test_the_gradient_by_the_image_is_that_of_double_differentiation(hidden):
    features, x = ntk(hidden), images(3)
    towards = torch.randn(3, 3, generator=seeding.generator(0, "t")).double()

    def kernel(rows):
        return ((rows.double() @ rows.double().T) * towards).sum()

    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    (mine,) = torch.autograd.grad(kernel(features.map(ours)), ours)
    (reference,) = torch.autograd.grad(kernel(by_autograd(features, theirs)), theirs)
    assert float((mine - reference).abs().max()) < 1e-5


@NETWORKS
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_the_norm_is_one_for_any_image(hidden, adversary):
    x = ADVERSARIES[adversary][None]
    assert float(ntk(hidden).map(x).double().norm()) == pytest.approx(1, abs=1e-5)
    assert float(ntk(hidden).rows(x).norms()) == pytest.approx(1, abs=1e-5)


@NETWORKS
def test_sums_and_inner_products_are_those_of_the_rows(hidden):
    features, x = ntk(hidden), images()
    phi, rows = features.map(x), rows_of(features, x)
    labels = torch.arange(12) % 3
    assign = F.one_hot(labels, 4).T * torch.linspace(0.1, 1, 12)  # the fourth class is empty
    means = torch.randn(4, features.dimension, generator=seeding.generator(0, "m"))
    met, squares = rows.against(assign, means)
    assert torch.allclose(rows.sums(assign), assign @ phi, atol=1e-6)
    assert torch.allclose(met, ((assign @ phi) * means).sum(1), atol=1e-4)
    assert torch.allclose(squares, (assign @ phi).square().sum(1), atol=1e-5)


@NETWORKS
def test_the_fitted_distance_and_its_gradient_need_no_matrix(hidden):
    features, labels = ntk(hidden), torch.arange(12) % 3
    means = features.map(images(3)) + 0.01
    ours, theirs = images().requires_grad_(), images().requires_grad_()
    fast = squared_mmd(means, features.rows(ours), labels)
    slow = squared_mmd(means, Dense(theirs, features.map), labels)
    assert fast.item() == pytest.approx(slow.item(), abs=1e-5)
    mine, reference = torch.autograd.grad(fast, ours)[0], torch.autograd.grad(slow, theirs)[0]
    assert torch.allclose(mine, reference, atol=1e-5)


@NETWORKS
def test_a_labelled_record_has_the_norm_that_it_claims(hidden):
    read = chosen("features")({"kind": "ntk", "hidden": hidden, "count_weight": 0.5})
    f = embedding(read, SHAPE, 3, seeding.generator(0, "f"), CPU)
    x = (images(4) * 255).to(torch.uint8)
    lengths = [float(f.weighted_sum(x[i : i + 1], torch.tensor([i % 3]), torch.ones(1)).norm()) for i in range(4)]
    assert lengths == pytest.approx([1.0] * 4, abs=1e-5)
    assert f.norms(x, torch.zeros(4)).tolist() == pytest.approx(lengths, abs=1e-5)


def test_the_published_networks_have_their_published_sizes():
    def size(shape, hidden):
        return NtkFeatures(NtkSettings(kind="ntk", hidden=hidden), shape, seeding.generator(0, "f"), CPU).dimension

    assert size((1, 28, 28), [800]) == 628_801
    assert size((3, 32, 32), [32, 256]) == 109_354 - 9 * 257
