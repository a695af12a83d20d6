"""The last net: many releases from two neighbouring sets, and the epsilon that telling them apart proves.

It sees nothing of the mechanism but its outputs, takes seconds, and is far weaker than the other layers: a
passed black-box test means little, a failed one everything.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from dpib.images import Images
from dpib.privacy import accounting
from dpib.privacy.audit import records, statistics
from dpib.privacy.audit.findings import Finding
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec
from dpib.privacy.mechanisms import Feature
from dpib.privacy.per_record.base import RecordLoss
from dpib.privacy.rng import NoiseSource

_DELTA = 1e-5
_TARGET = 5  # of the adversarial records: the one alone in its class


def audit_sum(
    charge: Charge, feature: Feature, shape: tuple[int, int, int], classes: int, runs: int = 1500
) -> list[Finding]:
    """Return the finding about `runs` releases of a sum from each of two neighbours."""
    nullable, once = records.NullableFeature(feature), replace(charge, rate=1.0, count=1)

    def release(images: Images, noise: NoiseSource) -> Tensor:
        with records.vault_of(images, once, noise) as (vault, _, _):
            return vault.release_sum(records.NAME, nullable).flatten()

    here = records.adversarial(shape, classes)
    there = records.without(here, _TARGET)
    direction = release(here, NoiseSource(0)) - release(there, NoiseSource(0))
    outputs = [np.array([float(release(d, NoiseSource()) @ direction) for _ in range(runs)]) for d in (here, there)]
    return [_finding(charge, once, len(here), *outputs)]


def audit_steps(
    charge: Charge,
    loss: RecordLoss,
    model: nn.Module,
    spec: GradientSpec,
    shape: tuple[int, int, int],
    classes: int,
    runs: int = 1500,
) -> list[Finding]:
    """Return the finding about `runs` steps of DP-SGD on each of two neighbours, without sub-sampling."""
    nullable, own = records.NullableLoss(loss), replace(spec, start=0)
    many = replace(charge, rate=1.0, count=runs, cap=None)
    here = records.adversarial(shape, classes)
    there = records.without(here, _TARGET)

    def project(images: Images, noise: NoiseSource, count: int, onto: Callable[[Tensor], Tensor]) -> list[Tensor]:
        with records.vault_of(images, replace(many, count=count), noise) as (vault, _, _):
            steps = iter(vault.gradients(records.NAME, nullable, model, own))
            return [onto(torch.cat([g.flatten() for g in next(steps).of])) for _ in range(count)]

    whole, less = (project(d, NoiseSource(0), 1, lambda flat: flat)[0] for d in (here, there))
    direction = whole - less
    outputs = [
        np.array([float(v) for v in project(d, NoiseSource(), runs, lambda flat: flat @ direction)])
        for d in (here, there)
    ]
    return [_finding(charge, replace(many, count=1), len(here), *outputs)]


def _finding(charge: Charge, once: Charge, n: int, here: np.ndarray, there: np.ndarray) -> Finding:
    claimed = accounting.composed([replace(once, name=records.NAME).event("train", n, "zero_out")], _DELTA)
    proved = statistics.epsilon_lower_bound(here, there, _DELTA)
    return Finding(
        charge.name, "black box", "epsilon proved from below", proved, f"at most {claimed:.4g}", proved <= claimed
    )
