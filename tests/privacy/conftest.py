"""A small sensitive set behind a vault, for the privacy tests."""

import pytest
import torch

from dpib.images import Images
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault


@pytest.fixture(autouse=True)
def one_thread():
    """Run on one thread: on tensors this small a second one only waits, and on a busy machine for long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_vault(tmp_path):
    """Return a maker of vaults: one data set, one folder, one unsafe noise seed by default."""

    def make(images, plan, *, scope="train", epsilon=1e9, relation="zero_out", noise=None, folder="v", **kwargs):
        # A budget of a billion: what is tested here is the mechanism, not the budget.
        account = Account(dataset="toy", relation=relation, epsilon=epsilon, delta=1e-5, scopes={scope: len(images)})
        ledger = Ledger.open(tmp_path / folder / "ledger.json", account)
        source = noise if noise is not None else NoiseSource(0)
        return Vault(images, scope, ledger, plan, source, tmp_path / folder / "private", **kwargs)

    return make


@pytest.fixture
def toy_images():
    """Return 60 random gray images of 8 pixels in 3 classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (60, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(x, torch.arange(60) % 3)
