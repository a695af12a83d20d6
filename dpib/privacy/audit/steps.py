"""Audit of `Vault.gradients` on a method's own model and loss: sensitivity C, and noise on every parameter."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from dpib.images import Images
from dpib.privacy.audit import records
from dpib.privacy.audit.findings import Finding
from dpib.privacy.audit.noise import audit_noise
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec
from dpib.privacy.per_record.base import RecordLoss
from dpib.privacy.per_record.draws import draw
from dpib.privacy.rng import NoiseSource

_ROUNDING = 1e-4  # of float32 gradients cast for the optimiser
_ALIKE = 16  # equal images whose draws are compared
_STRETCHES = ((1.0,) * 6, (1.0, 1e-3, 1e4, torch.inf, 30.0, 1.0))


def audit_steps(
    charge: Charge, loss: RecordLoss, model: nn.Module, spec: GradientSpec, shape: tuple[int, int, int], classes: int
) -> list[Finding]:
    """Return the findings about the steps of one DP-SGD training.

    Args:
        charge: calibrated; its sigma is audited.
        loss: the method's own.
        model: the method's own, in the state in which training starts; left as found.
        spec: the method's own.
        shape: of the images that the loss takes.
        classes: the number of classes.
    """
    images = records.adversarial(shape, classes)
    fresh = replace(spec, start=0)
    return [
        *(_sensitivity(charge, _stretched(loss, images, factors), model, fresh, images) for factors in _STRETCHES),
        *_noise(charge, records.NullableLoss(loss), model, fresh, records.nulls(2, shape)),
        _draws(charge, loss, spec, images.take(torch.zeros(_ALIKE, dtype=torch.int64))),
    ]


def _stretched(loss: RecordLoss, images: Images, factors: Sequence[float]) -> RecordLoss:
    """Return the loss with each record's multiplied by its factor: gradients far too large, tiny, or not finite."""
    return records.NullableLoss(
        loss, {x.numpy().tobytes(): factor for x, factor in zip(images.x, factors, strict=True)}
    )


def _sensitivity(charge: Charge, loss: RecordLoss, model: nn.Module, spec: GradientSpec, images: Images) -> Finding:
    # Hardly any noise: it cancels between neighbours, and its rounding must not hide what is left.
    once = replace(charge, sigma=1e-3, rate=1.0, count=1, cap=None)
    whole = _steps(images, once, loss, model, spec, NoiseSource(0))[0]
    worst = max(
        float((whole - _steps(records.without(images, i), once, loss, model, spec, NoiseSource(0))[0]).norm())
        for i in range(len(images))
    )
    check = "largest change by one adversarial record, over C"
    return Finding(charge.name, "sensitivity", check, worst, "above 0, at most 1", 0 < worst <= 1 + _ROUNDING)


def _noise(charge: Charge, loss: RecordLoss, model: nn.Module, spec: GradientSpec, images: Images) -> list[Finding]:
    assert charge.sigma is not None
    twice = replace(charge, rate=1.0, count=2, cap=None)
    # From its first step, and as after an interruption.
    starts = (twice, spec), (replace(twice, count=9), replace(spec, start=7))
    runs = [
        step / charge.sigma
        for planned, begun in starts
        for step in _steps(images, planned, loss, model, begun, NoiseSource())
    ]
    return audit_noise(charge.name, runs)


def _draws(charge: Charge, loss: RecordLoss, spec: GradientSpec, images: Images) -> Finding:
    """Compare the draws of equal images: where a step's are fresh, those of two records must differ as well."""
    place, device = torch.arange(len(images)), torch.device("cpu")
    first, second = (draw(loss, images, place, spec.seed, step, device) for step in (0, 1))
    fresh = [rows.flatten(1) for rows, later in zip(first, second, strict=True) if not torch.equal(rows, later)]
    alike = torch.ones(len(images), len(images), dtype=torch.bool)
    for rows in fresh:
        alike &= (rows[:, None] == rows).all(2)
    pairs = int(alike.triu(1).sum()) if fresh else 0
    return Finding(charge.name, "noise", "pairs of records with the same draws", pairs, "0", pairs == 0)


def _steps(
    images: Images, charge: Charge, loss: RecordLoss, model: nn.Module, spec: GradientSpec, noise: NoiseSource
) -> list[Tensor]:
    """Return every step's noised sum over C, flat, float64."""
    with records.vault_of(images, charge, noise) as (vault, _, _):
        steps = itertools.islice(vault.gradients(records.NAME, loss, model, spec), charge.count - spec.start)
        over = len(images) * charge.rate / spec.clip
        return [torch.cat([g.double().flatten() for g in step.of]) * over for step in steps]
