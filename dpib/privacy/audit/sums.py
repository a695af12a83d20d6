"""Audit of `Vault.release_sum`: is the sensitivity 1, and the noise what the ledger says?"""

import math
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from dpib.distributed import World
from dpib.images import Images
from dpib.privacy.audit import records
from dpib.privacy.audit.findings import Finding
from dpib.privacy.audit.noise import audit_noise
from dpib.privacy.audit.threads import together
from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Charge
from dpib.privacy.mechanisms import Feature
from dpib.privacy.rng import NoiseSource

_DRAWS = 6000
_RELEASES = 4  # of a charge for many
_EQUAL, _SAMPLES, _SILENT = 200, 40, 1e-6
_ROUNDING = 1e-5  # of float32 features; no fault that matters is this small


def audit_sum(charge: Charge, feature: Feature, shape: tuple[int, int, int], classes: int) -> list[Finding]:
    """Return the findings about one release of a sum.

    Args:
        charge: calibrated; its sigma is audited.
        feature: the method's own.
        shape: of the images that it takes.
        classes: the number of classes.
    """
    nullable = records.NullableFeature(feature)
    found = [
        _sensitivity(charge, nullable, records.adversarial(shape, classes)),
        *_noise(charge, nullable, records.nulls(2, shape)),
        _ledger(charge, nullable, records.nulls(2, shape)),
        _told(charge, nullable, records.nulls(2, shape)),
    ]
    if charge.rate < 1:
        found.append(_sampling(charge, feature, shape))
    return found


def _sensitivity(charge: Charge, feature: Feature, images: Images) -> Finding:
    """Compare neighbours under the same noise, which cancels: what is left is one record's contribution."""
    once = replace(charge, sigma=1.0, rate=1.0, count=1)
    whole = _release(images, once, feature, NoiseSource(0))
    moves = [
        float((whole - _release(records.without(images, i), once, feature, NoiseSource(0))).norm())
        for i in range(len(images))
    ]
    worst = max(moves)
    return Finding(
        charge.name,
        "sensitivity",
        "largest change by one adversarial record",
        worst,
        "above 0, at most 1",
        0 < worst <= 1 + _ROUNDING,
    )


def _noise(charge: Charge, feature: Feature, images: Images) -> list[Finding]:
    assert charge.sigma is not None
    first = _release(images, charge, feature, NoiseSource()).flatten()
    # A short vector is drawn more often: it takes thousands of draws to see that a tenth of the noise is missing.
    more = [_release(images, charge, feature, NoiseSource()).flatten() for _ in range(max(1, _DRAWS // len(first)))]
    return audit_noise(charge.name, [run / charge.sigma for run in (first, *more)])


def _ledger(charge: Charge, feature: Feature, images: Images) -> Finding:
    """Check that all releases are charged once, as planned, that each is another and a repetition is the same."""
    with records.vault_of(images, charge, NoiseSource()) as (vault, ledger, planned):
        indices = range(min(charge.count, _RELEASES))
        first = [vault.release_sum(records.NAME, feature, index) for index in indices]
        again = [vault.release_sum(records.NAME, feature, index) for index in indices]
        expected = planned.event("train", len(images), "zero_out")
        repeated = all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        apart = all(not torch.equal(a, b) for a, b in combinations(first, 2))
        try:
            vault.release_sum(records.NAME, feature, charge.count)
            ended = False
        except BudgetError:
            ended = True
        right = ledger.account.events == [expected] and repeated and apart and ended
    return Finding(charge.name, "ledger", "charged once, as planned", float(right), "1", right)


def _told(charge: Charge, feature: Feature, images: Images) -> Finding:
    """Check that a second process draws nothing of its own, and has what the first one released."""

    def member(world: World) -> tuple[Tensor, bool]:
        noise = NoiseSource()
        with records.vault_of(images, charge, noise, world) as (vault, ledger, _):
            return vault.release_sum(records.NAME, feature), noise.drawn or bool(ledger.account.events)

    (released, _), (told, drew) = together(member)
    right = torch.equal(told, released) and not drew
    return Finding(charge.name, "ledger", "drawn by one process of two", float(right), "1", right)


def _sampling(charge: Charge, feature: Feature, shape: tuple[int, int, int]) -> Finding:
    """Compare how many of many equal records are in a sum with the rate that is charged."""
    images = Images(torch.full((_EQUAL, *shape), 255, dtype=torch.uint8), torch.zeros(_EQUAL, dtype=torch.int64))
    quiet = replace(charge, sigma=_SILENT, count=_SAMPLES, cap=None)
    with records.vault_of(images, replace(quiet, rate=1.0, count=1), NoiseSource()) as (vault, _, _):
        whole = vault.release_sum(records.NAME, feature).norm()
    with records.vault_of(images, quiet, NoiseSource()) as (vault, _, _):
        shares = [float(vault.release_sum(records.NAME, feature, i).norm() / whole) for i in range(_SAMPLES)]
    expected = _SAMPLES * _EQUAL * charge.rate
    spread = math.sqrt(expected * (1 - charge.rate))
    apart = abs(sum(shares) * _EQUAL - expected) / spread
    varied = len({round(share * _EQUAL) for share in shares}) > 1
    return Finding(
        charge.name, "canary", "records in a sample, off the rate in standard deviations", apart, "at most 5",
        apart <= 5 and varied,
    )  # fmt: skip


def _release(images: Images, charge: Charge, feature: Feature, noise: NoiseSource) -> Tensor:
    with records.vault_of(images, charge, noise) as (vault, _, _):
        return vault.release_sum(records.NAME, feature)
