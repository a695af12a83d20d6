"""Audit of draws that lie far apart: of one training's hundreds of steps, and of releases by several names."""

import itertools
from dataclasses import replace

import torch
from torch import Tensor, nn

from dpib.draws import Draws
from dpib.privacy.audit import canaries, records, statistics
from dpib.privacy.audit.findings import Finding
from dpib.privacy.audit.noise import audit_noise
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec
from dpib.privacy.rng import NoiseSource

_CANARIES, _STEPS = 64, 240
_FURTHEST = _STEPS - 20  # a distance at which a dozen pairs of steps are left to compare
_WIDTH, _RELEASES = 2000, 4
RELEASE = "key stream"


class _Nothing:
    """A feature of many coordinates to which no record contributes."""

    def norms(self, x: Tensor, y: Tensor) -> Tensor:
        """Return infinity for every record: float [batch]."""
        return torch.full((len(x),), torch.inf)

    def weighted_sum(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros(_WIDTH, dtype=torch.float64)


def audit_distances(charge: Charge, spec: GradientSpec) -> list[Finding]:
    """Return the findings about a long training: does any step repeat the records or the noise of an earlier one?

    Records take part with probability a half, whatever the charge says: so each step tells most.

    Args:
        charge: calibrated; its sigma is audited.
        spec: of the method.
    """
    assert charge.sigma is not None
    long = replace(charge, rate=0.5, count=_STEPS, cap=None)
    own = replace(spec, start=0, strategy="vmap", physical=_CANARIES, splits=None, classes=1)
    trained, silent = (
        canaries.train_canaries(images(_CANARIES), long, own, 1, NoiseSource(0)).sums
        for images in (canaries.some, canaries.nobody)
    )
    part = (trained - silent > 0.5).double() - 0.5
    secret = canaries.train_canaries(canaries.nobody(_CANARIES), long, own, 1, NoiseSource()).sums / charge.sigma
    return [
        _finding(charge.name, "a step's records and any later ones correlated", part),
        _finding(charge.name, "a step's noise and any later one correlated", secret),
    ]


def _finding(release: str, check: str, rows: Tensor) -> Finding:
    """Correlate `rows` [steps, values] with themselves at every distance in steps."""
    worst = max(abs(statistics.correlation_deviation(rows[:-apart], rows[apart:])) for apart in range(1, _FURTHEST + 1))
    limit = statistics.Z_OF_MANY
    return Finding(release, "noise", f"{check}, in standard errors", worst, f"within {limit:g}", worst <= limit)


def audit_names() -> list[Finding]:
    """Return the findings about releases by several names from one vault, whose noise must have nothing in common."""
    sums = [Charge(f"sum-{i}", "gaussian", "an audit", sigma=1.0) for i in range(_RELEASES)]
    trainings = [Charge(f"steps-{i}", "gaussian", "an audit", sigma=1.0, count=2) for i in range(_RELEASES)]
    spec = GradientSpec(clip=1.0, seed=0, strategy="loop")
    model = nn.Linear(_WIDTH, 1, bias=False)
    with records.vault_for(records.nulls(2, (1, 1, 1)), [*sums, *trainings], NoiseSource()) as (vault, _):
        released = [vault.release_sum(charge.name, _Nothing()) for charge in sums]
        stepped = [
            torch.cat([2 * step.of[0].double().flatten() for step in itertools.islice(steps, 2)])
            for steps in (vault.gradients(charge.name, _Silent(), model, spec) for charge in trainings)
        ]
    return [*audit_noise(f"{RELEASE}, sums", released), *audit_noise(f"{RELEASE}, steps", stepped)]


class _Silent:
    """A loss that is not a number for any record but the random ones of the start-up check."""

    multiplicity = 1

    def rows(self, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        """Return one row, and a factor that is not a number for null records."""
        factors = torch.ones(len(x), 1).masked_fill(records.is_null(x)[:, None], torch.nan)
        return torch.ones(len(x), 1, _WIDTH), factors

    def per_row(self, model: nn.Module, *rows: Tensor) -> Tensor:
        """Return the model's output times the factor."""
        value: Tensor = model(rows[0]).squeeze(-1)
        return value * rows[1]
