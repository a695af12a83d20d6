"""Made-up records to attack a mechanism with, and null records that contribute nothing to any query."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dpib import seeding
from dpib.distributed import World
from dpib.draws import Draws
from dpib.images import Images
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.mechanisms import Feature, Witness
from dpib.privacy.per_record.base import RecordLoss
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault

_NULL = 7  # the level of every pixel of a null record; no adversarial record has it everywhere
_CHUNK = 2
NAME = "audited"


def adversarial(shape: tuple[int, int, int], classes: int) -> Images:
    """Return records that stretch a mechanism: extremes, texture, duplicates, and a class of one."""
    _, h, w = shape
    noise = torch.randint(0, 256, shape, generator=seeding.generator(0, "audit"), dtype=torch.uint8)
    lone = torch.zeros(shape, dtype=torch.uint8)
    lone[:, h // 2, w // 2] = 255
    board = ((torch.arange(h)[:, None] + torch.arange(w)) % 2 * 255).to(torch.uint8).expand(shape)
    black, white = torch.zeros(shape, dtype=torch.uint8), torch.full(shape, 255, dtype=torch.uint8)
    x = torch.stack([noise, noise, black, white, board, lone])
    y = torch.tensor([0, 0, 0, 0, 0, classes - 1])
    return Images(x, y)


def nulls(count: int, shape: tuple[int, int, int]) -> Images:
    """Return `count` null records."""
    return Images(torch.full((count, *shape), _NULL, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))


def without(images: Images, index: int) -> Images:
    """Return the neighbour in which the record at `index` is null; size and positions stay."""
    x, y = images.x.clone(), images.y.clone()
    x[index], y[index] = _NULL, 0
    return Images(x, y)


def is_null(x: Tensor) -> Tensor:
    """Return which records are null: bool [batch]."""
    return (x == _NULL).flatten(1).all(1)


class NullableFeature:
    """A feature to which null records contribute nothing: their norm is not finite, so the vault drops them."""

    def __init__(self, feature: Feature) -> None:
        self._feature = feature

    def norms(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the feature's norms, and infinity for null records: float64 [batch]."""
        norms = self._feature.norms(x, y)
        return norms.masked_fill(is_null(x).to(norms.device), torch.inf)

    def weighted_sum(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return the feature's own weighted sum."""
        return self._feature.weighted_sum(x, y, weights)


class NullableLoss:
    """A loss that is NaN for null records, and multiplied by a factor for others of them.

    Args:
        loss: of one record.
        factors: by the bytes of an image; 1 for images that are not named.
    """

    def __init__(self, loss: RecordLoss, factors: Mapping[bytes, float] | None = None) -> None:
        self._loss = loss
        self._factors = factors or {}
        self.multiplicity = loss.multiplicity

    def rows(self, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        """Return the loss's rows and one of factors, float [b, K]."""
        named = torch.tensor([self._factors.get(image.tobytes(), 1.0) for image in x.cpu().numpy()])
        factors = named.to(x.device).masked_fill(is_null(x), torch.nan)
        return (*self._loss.rows(x, y, draws), factors[:, None].expand(-1, self.multiplicity))

    def per_row(self, model: nn.Module, *rows: Tensor) -> Tensor:
        """Return the loss's rows times their factors."""
        *own, factors = rows
        return self._loss.per_row(model, *own) * factors


@contextmanager
def vault_of(
    images: Images, charge: Charge, noise: NoiseSource, world: World | None = None
) -> Iterator[tuple[Vault, Ledger, Charge]]:
    """Yield a vault around made-up records that plans one charge under the name `NAME`, its ledger, and that charge."""
    planned = replace(charge, name=NAME)
    with vault_for(images, [planned], noise, world=world) as (vault, ledger):
        yield vault, ledger, planned


@contextmanager
def vault_for(
    images: Images,
    plan: Sequence[Charge],
    noise: NoiseSource,
    witness: Witness | None = None,
    world: World | None = None,
) -> Iterator[tuple[Vault, Ledger]]:
    """Yield a vault around made-up records, with a plan and a budget for anything, and its ledger.

    It takes few records at a time, so that even a handful of them comes in several chunks.
    """
    with tempfile.TemporaryDirectory(prefix="dpib-audit-") as folder:
        account = Account(
            dataset="made-up records", relation="zero_out", epsilon=1e15, delta=1e-6, scopes={"train": len(images)}
        )
        ledger = Ledger.open(Path(folder) / "ledger.json", account)
        vault = Vault(images, "train", ledger, plan, noise, Path(folder), _CHUNK, world, witness)
        yield vault, ledger
