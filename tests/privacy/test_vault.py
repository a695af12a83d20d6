"""Releases of the vault: sensitivity by adversarial neighbours, noise, charging order, crashes."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpib import seeding
from dpib.images import Images
from dpib.kernels.embedding import embedding
from dpib.kernels.fourier import FourierSettings
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account, BudgetError
from dpib.privacy.rng import NoiseSource

PLAN = (Charge("sum", "gaussian", "a sum", sigma=2.0),)


class Raw:
    """Flattened pixels as they are, scaled by `scale`: norms far above 1, and whatever else one asks for."""

    def __init__(self, scale=1.0, poison=None):
        self.scale, self.poison = scale, poison

    def rows(self, x):
        rows = x.flatten(1).double() * self.scale
        if self.poison is not None:
            rows[x[:, 0, 0, 0] == 255] = self.poison
        return rows

    def norms(self, x, y):
        return self.rows(x).norm(dim=1)

    def weighted_sum(self, x, y, weights):
        rows = torch.nan_to_num(self.rows(x), 0, 0, 0)
        return (rows * weights[:, None].double()).sum(0)


def fourier(classes=3, count_weight=0.1):
    settings_ = FourierSettings(kind="fourier", dimension=64, bandwidths=[20.0, 120.0], count_weight=count_weight)
    return embedding(settings_, (1, 8, 8), classes, seeding.generator(0, "w"), torch.device("cpu"))


def null_out(images, position):
    """Return the zero-out neighbour: the record's contribution to a sum is exactly nothing."""
    keep = torch.arange(len(images)) != position
    return images.take(keep)


def with_record(images, position, x, y):
    pixels, labels = images.x.clone(), images.y.clone()
    pixels[position], labels[position] = x, y
    return Images(pixels, labels)


ADVERSARIES = {
    "black": torch.zeros(1, 8, 8, dtype=torch.uint8),
    "white": torch.full((1, 8, 8), 255, dtype=torch.uint8),
    "checker": ((torch.arange(64).reshape(1, 8, 8) % 2) * 255).to(torch.uint8),
    "one pixel": torch.eye(64, dtype=torch.uint8)[0].reshape(1, 8, 8) * 255,
}


def release(make_vault, images, feature, name, **kwargs):
    # The same noise on both sides: what is left of a difference is the mechanism itself.
    return make_vault(images, PLAN, noise=NoiseSource(5), folder=name, **kwargs).release_sum("sum", feature)


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize("feature", [fourier(), Raw(), Raw(1e-3), Raw(1e4)], ids=["fourier", "raw", "tiny", "huge"])
def test_removing_any_record_moves_the_sum_by_at_most_one(make_vault, toy_images, adversary, label, feature):
    images = with_record(toy_images, 17, ADVERSARIES[adversary], label)
    full = release(make_vault, images, feature, "full")
    less = release(make_vault, null_out(images, 17), feature, "less")
    assert float((full - less).norm()) <= 1 + 1e-5


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pixels=st.binary(min_size=64, max_size=64), label=st.integers(0, 2))
def test_any_record_at_all(make_vault, toy_images, tmp_path_factory, pixels, label):
    record = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).reshape(1, 8, 8)
    images = with_record(toy_images, 3, record, label)
    tag = str(tmp_path_factory.mktemp("v"))
    full = release(make_vault, images, fourier(), f"{tag}/full")
    less = release(make_vault, null_out(images, 3), fourier(), f"{tag}/less")
    assert float((full - less).norm()) <= 1 + 1e-5


def test_the_sensitivity_is_reached(make_vault, toy_images):
    """A bound that nothing attains would be a clip that loses signal for nothing."""
    full = release(make_vault, toy_images, fourier(), "full")
    less = release(make_vault, null_out(toy_images, 0), fourier(), "less")
    assert float((full - less).norm()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_a_record_without_a_finite_norm_counts_as_null(make_vault, toy_images, poison):
    images = with_record(toy_images, 9, ADVERSARIES["white"], 0)
    poisoned = release(make_vault, images, Raw(poison=poison), "poisoned")
    less = release(make_vault, null_out(images, 9), Raw(poison=poison), "less")
    assert torch.isfinite(poisoned).all()
    # Other records may share the corner pixel; they are null in both.
    assert float((poisoned - less).norm()) <= 1e-9


@pytest.mark.parametrize("batch", [1, 7, 60, 1000])
def test_chunks_do_not_matter(make_vault, toy_images, batch):
    whole = release(make_vault, toy_images, fourier(), "whole")
    cut = release(make_vault, toy_images, fourier(), "cut", batch=batch)
    assert float((whole - cut).abs().max()) < 1e-5


def test_noise_has_the_charged_scale_on_every_entry(make_vault, toy_images):
    feature = fourier()
    clean = feature.weighted_sum(toy_images.x, toy_images.y, torch.ones(60)).double()
    draws = torch.stack(
        [
            make_vault(toy_images, PLAN, noise=NoiseSource(), folder=f"n{i}").release_sum("sum", feature) - clean
            for i in range(60)
        ]
    )
    assert float(draws.std()) == pytest.approx(2.0, rel=0.02)
    assert float(draws.mean()) == pytest.approx(0.0, abs=0.05)
    per_row = draws.permute(1, 0, 2).flatten(1).std(1)
    assert float((per_row / 2 - 1).abs().max()) < 0.06
    assert float((draws.std(0) / 2 - 1).abs().max()) < 0.5
    kurtosis = (draws / draws.std()).pow(4).mean()
    assert float(kurtosis) == pytest.approx(3.0, abs=0.15)


def test_two_runs_draw_other_noise(make_vault, toy_images):
    first, second = (
        make_vault(toy_images, PLAN, noise=NoiseSource(), folder=f).release_sum("sum", fourier()) for f in "ab"
    )
    assert float((first - second).abs().min()) > 0


def test_poisson_sampling_takes_records_at_the_charged_rate(make_vault, toy_images):
    plan = (Charge("sum", "gaussian", "", sigma=0.5, rate=0.3),)
    # A heavy count coordinate, so that the noise on a count of about 18 is half a record.
    feature, counts = fourier(count_weight=3.0), []
    for i in range(200):
        vault = make_vault(toy_images, plan, noise=NoiseSource(), folder=f"p{i}")
        counts.append(float(vault.release_sum("sum", feature)[:, -1].sum()) / 3 * 10**0.5)
    taken = torch.tensor(counts)
    assert float(taken.mean()) == pytest.approx(18, abs=1)
    assert float(taken.var()) == pytest.approx(60 * 0.3 * 0.7, rel=0.3)


def test_the_charge_is_on_disk_before_noise_is_drawn(make_vault, toy_images, tmp_path):
    class Watched(NoiseSource):
        def normal(self, shape):
            on_disk = Account.parse((tmp_path / "v" / "ledger.json").read_text())
            assert [e.id for e in on_disk.events] == ["train/sum"]
            raise RuntimeError("the power fails here")

    with pytest.raises(RuntimeError, match="power"):
        make_vault(toy_images, PLAN, noise=Watched()).release_sum("sum", fourier())
    # The charge stays, nothing was released, and the same release goes through later at no further cost.
    again = make_vault(toy_images, PLAN, noise=NoiseSource())
    again.release_sum("sum", fourier())
    assert len(Account.parse((tmp_path / "v" / "ledger.json").read_text()).events) == 1


def test_a_finished_release_is_never_drawn_again(make_vault, toy_images):
    first = make_vault(toy_images, PLAN, noise=NoiseSource()).release_sum("sum", fourier())
    second = make_vault(toy_images, PLAN, noise=NoiseSource()).release_sum("sum", fourier())
    assert torch.equal(first, second)


def test_what_was_not_planned_or_cannot_be_paid_is_refused(make_vault, toy_images):
    with pytest.raises(BudgetError, match="no gaussian release named 'other'"):
        make_vault(toy_images, PLAN).release_sum("other", fourier())
    with pytest.raises(BudgetError, match="over the budget"):
        make_vault(toy_images, PLAN, epsilon=0.1, folder="poor").release_sum("sum", fourier())


def test_an_overflow_releases_nothing(make_vault, toy_images):
    class Broken(Raw):
        def norms(self, x, y):
            return torch.ones(len(x))

        def weighted_sum(self, x, y, weights):
            return torch.full((3,), float("inf"))

    with pytest.raises(BudgetError, match="nothing was released"):
        make_vault(toy_images, PLAN).release_sum("sum", Broken())


def test_the_vault_wants_the_records_that_the_ledger_speaks_of(make_vault, toy_images):
    vault = make_vault(toy_images, PLAN)
    with pytest.raises(BudgetError, match="60 train images, the data has 59"):
        type(vault)(null_out(toy_images, 0), "train", vault._ledger, PLAN, NoiseSource(), vault._folder)


def test_a_fixed_noise_seed_taints_the_ledger(make_vault, toy_images):
    assert make_vault(toy_images, PLAN, noise=NoiseSource(1))._ledger.account.tainted
    assert not make_vault(toy_images, PLAN, noise=NoiseSource(), folder="w")._ledger.account.tainted


def test_a_truncated_sample_is_what_is_summed(make_vault, toy_images):
    class Ones:
        """Every record adds 1 to one number."""

        def norms(self, x, y):
            return torch.ones(len(x))

        def weighted_sum(self, x, y, weights):
            return weights.sum()[None]

    for i in range(20):
        plan = (Charge("sum", "gaussian", "", sigma=0.01, rate=0.5, cap=7),)
        found = make_vault(toy_images, plan, noise=NoiseSource(i), folder=f"v{i}").release_sum("sum", Ones())
        assert round(float(found)) == 7  # 30 of 60 records on average, cut down to the cap


def test_a_count_priced_for_a_sample_is_refused(make_vault, toy_images):
    plan = (Charge("count", "gaussian", "", sigma=3.0, rate=0.1),)
    with pytest.raises(BudgetError, match="priced for a sample of the records"):
        make_vault(toy_images, plan).release_count("count", lambda x: torch.zeros(len(x), dtype=torch.int64))


def test_charges_stand_in_the_ledger_under_the_prefix_of_the_vault(make_vault, toy_images):
    vault = make_vault(toy_images, PLAN, prefix="study/trial-003/attempt-2/")
    vault.release_sum("sum", Raw(1 / 4000))
    assert [event.id for event in vault._ledger.account.events] == ["train/study/trial-003/attempt-2/sum"]


SAMPLES = Charge("samples", "gaussian", "", sigma=2.0, rate=0.5, count=250)


def test_one_charge_makes_all_its_releases_each_with_noise_of_its_own(make_vault, toy_images):
    vault = make_vault(toy_images, [SAMPLES])
    sums = [vault.release_sum("samples", Raw(), index) for index in range(3)]
    assert [(event.id, event.count) for event in vault._ledger.account.events] == [("train/samples", 250)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(sums, 2))
    with pytest.raises(BudgetError, match="release 250 of 'samples' is not planned: the charge is for 250"):
        vault.release_sum("samples", Raw(), 250)
    with pytest.raises(BudgetError, match="release -1"):
        vault.release_sum("samples", Raw(), -1)


def test_a_finished_release_of_many_is_never_drawn_again(make_vault, toy_images):
    first = [make_vault(toy_images, [SAMPLES]).release_sum("samples", Raw(), index) for index in range(3)]
    again = make_vault(toy_images, [SAMPLES], noise=NoiseSource(9))
    assert all(torch.equal(again.release_sum("samples", Raw(), index), first[index]) for index in (2, 0, 1))
    other = again.release_sum("samples", Raw(), 3)
    assert not any(torch.equal(other, one) for one in first)


def test_the_second_of_one_charge_is_not_the_first_of_a_charge_whose_name_says_so(make_vault, toy_images):
    plan = [replace(SAMPLES, name="a"), replace(SAMPLES, name="a-1"), replace(SAMPLES, name="a/1")]
    vault = make_vault(toy_images, plan)
    sums = [vault.release_sum("a", Raw(), 1), vault.release_sum("a-1", Raw()), vault.release_sum("a/1", Raw())]
    assert len({float(one.sum()) for one in sums}) == 3


def test_every_release_of_many_sees_a_sample_of_its_own(make_vault, toy_images):
    silent = replace(SAMPLES, sigma=1e-9, count=40)
    white = Images(torch.full_like(toy_images.x, 255), toy_images.y)
    vault = make_vault(white, [silent], epsilon=1e30)
    shares = [float(vault.release_sum("samples", Raw(), index).sum()) for index in range(40)]
    assert len({round(share, 6) for share in shares}) > 10
