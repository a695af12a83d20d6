"""EDM's scalings and loss against values worked out by hand."""

import math

import pytest
import torch
from torch import nn

from dpib.diffusion.loss import DenoisingLoss, LossSettings
from dpib.diffusion.preconditioning import SIGMA_DATA, denoised, loss_weight, scalings
from dpib.draws import Draws


class Returns(nn.Module):
    """Returns a constant image and remembers what it was given."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x, c_noise, labels):
        self.seen = (x, c_noise, labels)
        return self.value.expand(x.shape)


def test_scalings_at_one_level_are_those_worked_out_by_hand():
    # s = 1, sd^2 = 1/3: s^2 + sd^2 = 4/3.
    c = scalings(torch.tensor([1.0]))
    assert pytest.approx(1 / 3) == SIGMA_DATA**2
    assert float(c.skip) == pytest.approx(1 / 4)
    assert float(c.out) == pytest.approx(1 / 2)
    assert float(c.in_) == pytest.approx(math.sqrt(3) / 2)
    assert float(c.noise) == 0
    assert float(scalings(torch.tensor([math.e**4])).noise) == pytest.approx(1)
    assert float(loss_weight(torch.tensor([1.0]))) == pytest.approx(4)


def test_weight_and_output_scale_cancel_so_that_every_level_counts_alike():
    sigma = torch.logspace(-2, 2, 9)
    assert torch.allclose(loss_weight(sigma) * scalings(sigma).out.square(), torch.ones(9), atol=1e-5)


def test_the_denoiser_is_the_scaled_network():
    model = Returns(2.0)
    x = torch.full((3, 1, 2, 2), 4.0)
    labels = torch.tensor([0, 1, 2])
    found = denoised(model, x, torch.ones(3), labels)
    assert torch.allclose(found, torch.full_like(x, 4 / 4 + 2 / 2))
    seen, c_noise, given = model.seen
    assert torch.allclose(seen, x * math.sqrt(3) / 2)
    assert torch.equal(c_noise, torch.zeros(3))
    assert torch.equal(given, labels)


def test_the_loss_of_one_record_is_the_one_worked_out_by_hand():
    loss = DenoisingLoss(LossSettings(), null=10)
    clean, noise = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 2.0)
    # s = 1: x = 2.5, D = 2.5/4 + 1/2 = 1.125, error 0.625, weight 4.
    found = loss.per_row(Returns(1.0), clean, noise, torch.ones(1), torch.zeros(1, dtype=torch.int64))
    assert found.item() == pytest.approx(4 * 0.625**2)


def draw(k, dropout=0.0, n=1, seed=0):
    loss = DenoisingLoss(LossSettings(label_dropout=dropout), null=10, multiplicity=k)
    x = torch.arange(n * 4, dtype=torch.uint8).view(n, 1, 2, 2)
    return x, loss.rows(x, torch.full((n,), 3), Draws(seed, torch.arange(n)))


def test_a_record_is_drawn_k_times_with_fresh_noise_and_levels():
    x, (clean, noise, sigma, labels) = draw(k=4)
    assert clean.shape == noise.shape == (1, 4, 1, 2, 2)
    assert sigma.shape == labels.shape == (1, 4)
    assert torch.allclose(clean[0], (2 * x.float() / 255 - 1).expand(4, -1, -1, -1))
    assert len(sigma.unique()) == 4
    assert len(noise.flatten().unique()) == 16


def test_noise_levels_are_lognormal_as_configured():
    _, (_, noise, sigma, _) = draw(k=20_000)
    assert float(sigma.log().mean()) == pytest.approx(-1.2, abs=0.03)
    assert float(sigma.log().std()) == pytest.approx(1.2, abs=0.03)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)


def test_the_label_is_dropped_once_per_record_to_the_null_index():
    _, (_, _, _, labels) = draw(k=3, dropout=0.5, n=2000)
    assert (labels == labels[:, :1]).all()
    assert labels.unique().tolist() == [3, 10]
    assert float((labels[:, 0] == 10).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert (draw(k=3, dropout=0.0)[1][3] == 3).all()


def test_draws_follow_from_the_seed_alone():
    assert all(torch.equal(a, b) for a, b in zip(draw(3)[1], draw(3)[1], strict=True))
    assert not torch.equal(draw(3)[1][1], draw(3, seed=1)[1][1])
