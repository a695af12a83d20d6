"""The samplers on a distribution whose perfect denoiser is known: a mixture of two Gaussians."""

import pytest
import torch
from torch import nn

from dpib import seeding
from dpib.diffusion.preconditioning import scalings
from dpib.diffusion.sampler import Guided, SamplerSettings, karras, sample

SPREAD = 0.1
CENTRES = torch.tensor([-0.6, 0.5])
WEIGHTS = torch.tensor([0.3, 0.7])
NULL = 2


class Mixture(nn.Module):
    """The raw network behind the perfect denoiser; label 0 or 1 is one component, the null label both."""

    def forward(self, x, c_noise, labels):
        sigma = torch.exp(4 * c_noise).view(-1, 1, 1, 1)
        c = scalings(sigma)
        noisy = x / c.in_
        variance = SPREAD**2 + sigma**2
        logits = WEIGHTS.log() - (noisy.unsqueeze(-1) - CENTRES).square() / (2 * variance.unsqueeze(-1))
        known = nn.functional.one_hot(labels.clamp(max=1), 2).view(-1, 1, 1, 1, 2).to(x)
        shares = torch.where((labels == NULL).view(-1, 1, 1, 1, 1), logits.softmax(-1), known)
        centre = (shares * CENTRES).sum(-1)
        perfect = centre + SPREAD**2 / variance * (noisy - centre)
        return (perfect - c.skip * noisy) / c.out


SAMPLERS = [
    SamplerSettings(name="ddim", steps=60),
    SamplerSettings(name="edm", steps=25),
    SamplerSettings(name="edm", steps=40, churn=20, churn_min=0.05, churn_max=50),
]


def run(settings, labels, seed=0):
    return sample(Mixture(), labels, (1, 1, 1), settings, NULL, seeding.generator(seed, "x")).flatten()


@pytest.mark.parametrize("settings", SAMPLERS, ids=["ddim", "heun", "churn"])
def test_a_known_mixture_is_recovered(settings):
    x = run(settings, torch.full((4000,), NULL))
    low, high = x[x < 0], x[x >= 0]
    assert len(low) / len(x) == pytest.approx(0.3, abs=0.03)
    assert float(low.mean()) == pytest.approx(-0.6, abs=0.02)
    assert float(high.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(high.std()) == pytest.approx(SPREAD, rel=0.15)


@pytest.mark.parametrize("settings", SAMPLERS, ids=["ddim", "heun", "churn"])
def test_labels_are_obeyed_in_their_order(settings):
    labels = torch.tensor([0, 1, 1, 0, 1] * 40)
    assert torch.equal(run(settings, labels) > 0, labels == 1)


def test_the_same_generator_gives_the_same_images_and_another_one_others():
    labels = torch.full((5,), NULL)
    settings = SAMPLERS[2]
    assert torch.equal(run(settings, labels), run(settings, labels))
    assert not torch.equal(run(settings, labels), run(settings, labels, seed=1))


def test_the_levels_fall_from_the_largest_to_the_smallest_and_to_zero():
    levels = karras(SamplerSettings(name="edm", steps=18))
    assert len(levels) == 19
    assert float(levels[0]) == pytest.approx(80)
    assert float(levels[-2]) == pytest.approx(0.002)
    assert float(levels[-1]) == 0
    assert (levels.diff() < 0).all()


def test_guidance_moves_away_from_the_null_label():
    model = Mixture()
    x, c_noise, labels = torch.randn(6, 1, 1, 1), torch.zeros(6), torch.ones(6, dtype=torch.int64)
    with_label, without = model(x, c_noise, labels), model(x, c_noise, torch.full_like(labels, NULL))
    guided = Guided(model, NULL, 1.5)(x, c_noise, labels)
    assert torch.allclose(guided, with_label + 1.5 * (with_label - without), atol=1e-6)
    assert torch.equal(Guided(model, NULL, 0.0)(x, c_noise, labels), with_label)


@pytest.mark.parametrize("count", [1, 7])
def test_as_many_images_as_labels_come_out(count):
    assert len(run(SAMPLERS[0], torch.zeros(count, dtype=torch.int64))) == count
