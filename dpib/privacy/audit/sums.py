"""Audit of `Vault.release_sum`: is the sensitivity 1, and the noise what the ledger says?"""

from dataclasses import replace

import torch
from torch import Tensor

from dpib.images import Images
from dpib.privacy.audit import records
from dpib.privacy.audit.findings import Finding
from dpib.privacy.audit.noise import audit_noise
from dpib.privacy.events import Charge
from dpib.privacy.mechanisms import Feature
from dpib.privacy.rng import NoiseSource

_DRAWS = 6000
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
    return [
        _sensitivity(charge, nullable, records.adversarial(shape, classes)),
        *_noise(charge, nullable, records.nulls(2, shape)),
        _ledger(charge, nullable, records.nulls(2, shape)),
    ]


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
    """Check that the release was charged as planned, once, and that a repetition returns the same value."""
    with records.vault_of(images, charge, NoiseSource()) as (vault, ledger, planned):
        first = vault.release_sum(records.NAME, feature)
        again = vault.release_sum(records.NAME, feature)
        expected = planned.event("train", len(images), "zero_out")
        right = ledger.account.events == [expected] and torch.equal(first, again)
    return Finding(charge.name, "ledger", "charged once, as planned", float(right), "1", right)


def _release(images: Images, charge: Charge, feature: Feature, noise: NoiseSource) -> Tensor:
    with records.vault_of(images, charge, noise) as (vault, _, _):
        return vault.release_sum(records.NAME, feature)
