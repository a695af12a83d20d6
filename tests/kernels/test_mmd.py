"""The unbiased MMD against its definition as sums over pairs."""

import pytest
import torch

from dpib.kernels.features import Dense
from dpib.kernels.mmd import squared_mmd


def unit_rows(n, d, generator):
    rows = torch.randn(n, d, generator=generator)
    return rows / rows.norm(dim=1, keepdim=True)


def mmd(means, features, labels, unit=True):
    return squared_mmd(means, Dense(features, lambda x: x, unit), labels)


def by_pairs(means, features, labels):
    total = torch.zeros(())
    for c in labels.unique():
        f = features[labels == c]
        b = len(f)
        pairs = sum(f[i] @ f[j] for i in range(b) for j in range(b) if i != j)
        total = total + pairs / (b * (b - 1)) - 2 * (f @ means[c]).mean() + means[c] @ means[c]
    return total


def test_value_and_gradient_equal_the_sums_over_pairs():
    g = torch.Generator().manual_seed(0)
    means = torch.randn(4, 7, generator=g)
    features = unit_rows(10, 7, g).requires_grad_()
    labels = torch.tensor([0, 0, 0, 2, 2, 3, 3, 3, 3, 0])
    ours, pairs = mmd(means, features, labels), by_pairs(means, features, labels)
    assert ours.item() == pytest.approx(pairs.item(), abs=1e-5)
    (mine,) = torch.autograd.grad(ours, features)
    (theirs,) = torch.autograd.grad(pairs, features)
    # The diagonal is constant on the unit sphere: gradients agree along it, which is where features move.
    tangent = [v - (v * features).sum(1, keepdim=True) * features for v in (mine, theirs)]
    assert float((tangent[0] - tangent[1]).abs().max()) < 1e-5


def test_it_is_unbiased_for_images_from_the_same_distribution():
    g = torch.Generator().manual_seed(1)
    pool = unit_rows(5000, 20, g)
    mean = pool.mean(0, keepdim=True)
    values = [
        float(mmd(mean, pool[torch.randint(5000, (4,), generator=g)], torch.zeros(4, dtype=torch.long)))
        for _ in range(2000)
    ]
    spread = torch.tensor(values)
    assert abs(float(spread.mean())) < 4 * float(spread.std()) / 2000**0.5


def test_rows_of_any_length_leave_out_their_own_squares():
    g = torch.Generator().manual_seed(2)
    means, features = torch.randn(3, 7, generator=g), torch.randn(9, 7, generator=g).requires_grad_()
    labels = torch.arange(9) % 3
    ours, pairs = mmd(means, features, labels, unit=False), by_pairs(means, features, labels)
    assert ours.item() == pytest.approx(pairs.item(), rel=1e-5)
    mine, theirs = (torch.autograd.grad(value, features)[0] for value in (ours, pairs))
    assert torch.allclose(mine, theirs, atol=1e-5)
