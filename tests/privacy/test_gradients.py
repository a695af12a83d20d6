"""DP-SGD through `Vault.gradients`: sensitivity by adversarial neighbours, noise, sampling."""

import itertools

import pytest
import torch
from scipy import stats
from torch import nn

from dpib.draws import Draws
from dpib.images import Images
from dpib.privacy.per_record.autotune import STRATEGIES
from dpib.privacy.rng import NoiseSource
from tests.privacy.nets import CLIP, Denoise, Net, Sequence, flat, make, plan, spec, toy

WHITE = torch.full((1, 8, 8), 255, dtype=torch.uint8)


def released(make_vault, images, loss, how, steps=1, model=None, seed=5, folder="v", **charge):
    """Return the first noised sums (not means), float64 [steps, parameters]; by default all records take part."""
    vault = make_vault(images, plan(**{"count": steps, **charge}), noise=NoiseSource(seed), folder=folder, epsilon=1e30)
    items = vault.gradients("sgd", loss, model or make(Net), how)
    rate = charge.get("rate", 1.0)
    return torch.stack([flat(item.of) for item in itertools.islice(items, steps)]) * len(images) * rate


def moved(make_vault, images, loss, how, **charge):
    """Return how far the sum moves when the last record is zeroed out; the noise is the same, and cancels."""
    full = released(make_vault, images, loss, how, folder="full", **charge)
    less = released(make_vault, images.take(slice(0, len(images) - 1)), loss, how, folder="less", **charge)
    return float((full - less).norm())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4, 1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("multiplicity", [1, 3, 8])
@pytest.mark.parametrize("strategy", ["loop", "grouped", "joined", "vmap"])
def test_no_record_moves_the_sum_by_more_than_the_clip(make_vault, strategy, multiplicity, scale):
    distance = moved(make_vault, toy(5, WHITE), Denoise(multiplicity, scale), spec(strategy=strategy))
    assert distance <= CLIP * (1 + 1e-5)
    if scale in (1.0, 1e4):
        assert distance == pytest.approx(CLIP, rel=1e-4)  # the bound is reached, so K draws are clipped as one
    if scale >= 1e30 or scale != scale:
        assert distance < 1e-6  # no finite norm: counts as null


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("physical", [1, 2, 5])
def test_the_bound_holds_for_every_batch_and_chunk_size(make_vault, n, physical):
    assert moved(make_vault, toy(n, WHITE), Denoise(3, 1e4), spec(physical=physical)) <= CLIP * (1 + 1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_bound_holds_for_channels_last_input_and_duplicates(make_vault, strategy):
    images = toy(4)
    images = Images(images.x[:1].repeat(4, 1, 1, 1), images.y[:1].repeat(4))
    assert moved(make_vault, images, Denoise(1, layout=torch.channels_last), spec(strategy=strategy)) <= CLIP * 1.00001


def test_the_bound_holds_under_sub_sampling(make_vault):
    distances = []
    for seed in range(6):
        how = {"steps": 1, "rate": 0.5, "seed": seed}
        full = released(make_vault, toy(6, WHITE), Denoise(1, 1e4), spec(), folder=f"f{seed}", **how)
        less = released(make_vault, toy(6).take(slice(0, 5)), Denoise(1, 1e4), spec(), folder=f"l{seed}", **how)
        distances.append(float((full - less).norm()))
    assert max(distances) == pytest.approx(CLIP, rel=1e-4)
    assert min(distances) < 1e-6


@pytest.mark.parametrize("cut", [{"physical": 1}, {"physical": 3}, {"physical": 100}, {"splits": 2, "physical": None}])
@pytest.mark.parametrize("strategy", ["loop", "grouped", "joined", "vmap"])
def test_chunks_do_not_matter(make_vault, cut, strategy):
    charge = {"steps": 2, "rate": 0.7}
    whole = released(make_vault, toy(9), Denoise(3), spec(), folder="a", **charge)
    pieces = released(make_vault, toy(9), Denoise(3), spec(strategy=strategy, **cut), folder="b", **charge)
    assert float((whole - pieces).norm() / whole.norm()) < 1e-6


def test_distinct_records_stay_apart_with_several_draws(make_vault):
    """The sum for both records is the sum of each alone: draws of different records are never averaged."""
    one, two = toy(2).take(slice(0, 1)), toy(2).take(slice(1, 2))

    def clean(images, folder):
        """Positions seed the draws: K equal rows would hide an interleaving, so noise is drawn per image."""
        return released(make_vault, images, Fixed(4), spec(strategy="grouped"), sigma=1e-9, folder=folder)

    assert torch.allclose(clean(one, "a") + clean(two, "b"), clean(toy(2), "ab"), atol=1e-7)


class Fixed(Denoise):
    """Draws that follow from the image alone."""

    def rows(self, x, y, draws):
        return super().rows(x, y, Draws(0, x.flatten(1).sum(1)))


def test_noise_has_the_charged_scale_on_every_parameter(make_vault):
    """Empty batches: what is released is the noise, all of it and nothing else."""
    vault = make_vault(toy(4), plan(sigma=3.0, count=150, rate=1e-12), noise=NoiseSource(8))
    model = make(Net)
    steps = [item.of for item in itertools.islice(vault.gradients("sgd", Denoise(1), model, spec()), 150)]
    draws = torch.stack([flat(step) for step in steps]) * 4e-12 / (3.0 * CLIP)
    assert float(draws.std()) == pytest.approx(1, rel=0.01)
    assert abs(float(draws.mean())) < 0.01
    assert stats.kstest(draws.flatten().numpy()[::7], "norm").pvalue > 1e-3
    low, high = (x**0.5 for x in stats.chi2.ppf([1e-7, 1 - 1e-7], 149) / 149)
    assert low < float(draws.std(0).min())
    assert float(draws.std(0).max()) < high
    for i, parameter in enumerate(model.parameters()):
        rows = torch.stack([step[i].flatten(1) if parameter.dim() > 1 else step[i][:, None] for step in steps])
        assert float(rows.std(0).min()) > 0
        assert float(rows.std((0, 2)).min()) * 4e-12 / (3.0 * CLIP) > 0.75
    products = (draws[1:] * draws[:-1]).mean()
    assert abs(float(products)) < 4 / draws[1:].numel() ** 0.5


def test_noise_is_the_same_amount_beside_records(make_vault):
    clean = released(make_vault, toy(5), Denoise(1), spec(), sigma=1e-9, folder="clean")[0]
    noisy = torch.cat(
        [released(make_vault, toy(5), Denoise(1), spec(), sigma=2.0, seed=s, folder=f"n{s}") for s in range(20)]
    )
    assert float((noisy - clean).std()) == pytest.approx(2.0 * CLIP, rel=0.02)


def test_two_runs_and_two_steps_draw_other_noise(make_vault):
    runs = [released(make_vault, toy(3), Denoise(1), spec(), steps=2, seed=None, folder=f) for f in "ab"]
    steps = torch.cat(runs)
    for a, b in itertools.combinations(range(4), 2):
        assert float((steps[a] - steps[b]).abs().min()) > 0


def test_records_take_part_at_the_charged_rate_whatever_the_utility_seed(make_vault):
    model = make(lambda: Sequence(nn.Conv2d(1, 1, 1)))
    taken = []
    for run in (0, 1):
        loss = Denoise(1)
        vault = make_vault(toy(30), plan(rate=0.2, count=200), noise=NoiseSource(run), folder=str(run))
        steps = vault.gradients("sgd", loss, model, spec())
        loss.drawn.clear()  # what the start-up check drew
        sizes = []
        for _ in range(200):
            next(steps)
            sizes.append(len(loss.drawn) - sum(sizes))
        taken.append(list(loss.drawn))
        counts = torch.bincount(torch.tensor(loss.drawn), minlength=30).double()
        assert float(counts.mean()) == pytest.approx(40, abs=4 * (200 * 0.16 / 30) ** 0.5)
        assert 0.35 < float(counts.var() / (200 * 0.16)) < 2.1
        assert 0.65 < float(torch.tensor(sizes).double().var() / (30 * 0.16)) < 1.45
    assert taken[0] != taken[1]


def test_a_cap_bounds_the_batch(make_vault):
    loss = Denoise(1)
    vault = make_vault(toy(20), plan(rate=0.9, cap=5))
    steps = vault.gradients("sgd", loss, make(Net), spec())
    loss.drawn.clear()
    next(steps)
    assert len(loss.drawn) == 5


def test_a_records_draws_follow_from_seed_step_and_position(make_vault):
    first, again, other = (
        released(make_vault, toy(3), Denoise(2), spec(seed=s), steps=2, sigma=1e-9, folder=f)
        for s, f in ((1, "a"), (1, "b"), (2, "c"))
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, rtol=1e-3)
    assert not torch.allclose(first[0], first[1], rtol=1e-3)
