"""Audit of DP-SGD in two processes: each record counts once, and the sum has the whole noise."""

from dataclasses import replace

import torch
from torch import Tensor

from dpib.privacy.audit import canaries
from dpib.privacy.audit.findings import Finding
from dpib.privacy.audit.noise import audit_noise
from dpib.privacy.audit.threads import together
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec
from dpib.privacy.rng import NoiseSource

_CANARIES, _STEPS = 200, 12


def audit_together(charge: Charge, spec: GradientSpec, multiplicity: int) -> list[Finding]:
    """Return the findings about DP-SGD by two processes under `charge`, at a rate of a half.

    Args:
        charge: calibrated; its sigma is audited.
        spec: of the method.
        multiplicity: K of the method.
    """
    assert charge.sigma is not None
    short = replace(charge, rate=0.5, count=_STEPS, cap=None)
    own = replace(spec, start=0, strategy="loop", physical=None, splits=2, classes=1)

    def sums(present: bool, seed: int | None) -> Tensor:
        images = (canaries.some if present else canaries.nobody)(_CANARIES)
        first, _ = together(
            lambda world: canaries.train_canaries(images, short, own, multiplicity, NoiseSource(seed), world)
        )
        return first.sums

    hits = sums(True, 0) - sums(False, 0)
    apart = float(torch.minimum(hits.abs(), (hits - 1).abs()).max())
    release = f"{charge.name}, two processes"
    return [
        Finding(release, "canary", "contribution away from 0 or C, over C", apart, "at most 0.001", apart <= 1e-3),
        *audit_noise(release, list((sums(False, None) / charge.sigma).flatten().chunk(2))),
    ]
