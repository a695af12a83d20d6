"""Noised counts: sensitivity by neighbours, noise, charge, and the same value on every retry."""

import pytest
import torch

from dpib.images import Images
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account, BudgetError
from dpib.privacy.rng import NoiseSource

N = 40
GAUSSIAN = Charge("score", "gaussian", "", sigma=3.0)
LAPLACE = Charge("score", "laplace", "", scale=3.0)


@pytest.fixture
def images():
    x = torch.arange(N, dtype=torch.uint8)[:, None, None, None].expand(N, 1, 4, 4).contiguous()
    return Images(x, torch.zeros(N, dtype=torch.int64))


def first(hits):
    """Return a predictor that gets exactly the records right whose pixels are below `hits`."""
    return lambda x: (x[:, 0, 0, 0] >= hits).long()


def count(make_vault, images, charge, folder, noise=None, hits=25):
    vault = make_vault(images, (charge,), scope="val", noise=noise or NoiseSource(5), folder=folder)
    return vault.release_count("score", first(hits))


@pytest.mark.parametrize("charge", [GAUSSIAN, LAPLACE], ids=["gaussian", "laplace"])
@pytest.mark.parametrize(("record", "moves"), [(0, 1), (24, 1), (25, 0), (39, 0)])
def test_removing_a_record_moves_the_count_by_one_at_most(make_vault, images, charge, record, moves):
    full = count(make_vault, images, charge, "full")
    less = count(make_vault, images.take(torch.arange(N) != record), charge, "less")
    assert full - less == pytest.approx(moves)


@pytest.mark.parametrize(("charge", "deviation", "kurtosis"), [(GAUSSIAN, 3.0, 3.0), (LAPLACE, 3.0 * 2**0.5, 6.0)])
def test_noise_has_the_charged_scale_and_shape(make_vault, images, charge, deviation, kurtosis):
    draws = torch.tensor([count(make_vault, images, charge, f"{charge.kind}{i}", NoiseSource()) for i in range(600)])
    noise = draws.double() - 25
    assert float(noise.mean()) == pytest.approx(0, abs=4 * deviation / 600**0.5)
    assert float(noise.std()) == pytest.approx(deviation, rel=0.15)
    # Mean absolute over standard deviation tells the two shapes apart: 0.798 and 0.707.
    expected = 0.798 if kurtosis == 3.0 else 0.707
    assert float(noise.abs().mean() / noise.std()) == pytest.approx(expected, abs=0.045)


def test_a_retry_returns_the_same_count_and_pays_once(make_vault, images, tmp_path):
    values = {count(make_vault, images, GAUSSIAN, "v", NoiseSource()) for _ in range(5)}
    assert len(values) == 1
    account = Account.parse((tmp_path / "v" / "ledger.json").read_text())
    assert [(e.id, e.kind, e.count) for e in account.events] == [("val/score", "gaussian", 1)]


def test_the_charge_is_on_disk_before_noise_is_drawn(make_vault, images, tmp_path):
    class Watched(NoiseSource):
        def normal(self, shape):
            assert "val/score" in (tmp_path / "v" / "ledger.json").read_text()
            raise RuntimeError("the power fails here")

    with pytest.raises(RuntimeError, match="power"):
        count(make_vault, images, GAUSSIAN, "v", Watched())


def test_a_count_that_is_not_planned_is_refused(make_vault, images):
    vault = make_vault(images, (Charge("pick", "noisy_max", "", epsilon=1.0),), scope="val")
    with pytest.raises(BudgetError, match="no gaussian or laplace release named 'pick'"):
        vault.release_count("pick", first(3))
