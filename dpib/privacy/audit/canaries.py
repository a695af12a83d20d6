"""Canaries: records that own one coordinate each, so that who took part in which step can be read off.

Two trainings under the same noise, one on canaries and one on null records, differ by exactly C in the
coordinates of the canaries that were sampled. The second one alone is noise.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from dpib.distributed import World
from dpib.draws import Draws
from dpib.images import Images
from dpib.privacy import accounting
from dpib.privacy.audit import records, statistics
from dpib.privacy.audit.findings import Finding
from dpib.privacy.audit.noise import audit_noise
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec
from dpib.privacy.ledger import BudgetError
from dpib.privacy.rng import NoiseSource

_NOBODY = 65535  # the coordinate of null records: none
_DELTA = 1e-5
_PIECES = 2  # of a step's records
_START = 7  # the step at which an interrupted training goes on


class _Table(nn.Module):
    """One parameter per canary."""

    def __init__(self, canaries: int) -> None:
        super().__init__()
        self.table = nn.Embedding(canaries, 1)

    def forward(self, index: Tensor) -> Tensor:
        """Return the parameter of each canary: float [n] for int64 [n]."""
        value: Tensor = self.table(index)
        return value.squeeze(-1)


class _Shout:
    """A loss with a huge gradient in the coordinate that the record's pixels name, and none for a null record."""

    def __init__(self, canaries: int, multiplicity: int) -> None:
        self.canaries, self.multiplicity = canaries, multiplicity

    def rows(self, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        """Return the record's coordinate and its factor, K times."""
        high, low = x.flatten(1)[:, :2].long().unbind(1)
        index = high * 256 + low
        factors = torch.full((len(x),), 1e3).masked_fill(index == _NOBODY, torch.nan)
        return tuple(row[:, None].expand(-1, self.multiplicity) for row in (index % self.canaries, factors))

    def per_row(self, model: nn.Module, *rows: Tensor) -> Tensor:
        """Return the parameter times the factor."""
        index, factor = rows
        value: Tensor = model(index) * factor
        return value


class Training(NamedTuple):
    """What came out of one training."""

    sums: Tensor
    """Noised sums over C, float64 [steps, canaries]."""
    stopped: bool
    """Whether a step beyond the charge was refused."""
    claimed: float
    """Epsilon by its ledger."""


def audit_canaries(
    charge: Charge, spec: GradientSpec, multiplicity: int, n: int, canaries: int = 400, steps: int = 60
) -> list[Finding]:
    """Return the findings about sampler, clip, noise and ledger of DP-SGD under `charge` and `spec`.

    Args:
        charge: calibrated for `n` records; its sigma, rate and cap are audited.
        spec: of the method.
        multiplicity: K of the method.
        n: the number of sensitive records, of which the cap is a share.
        canaries: how many made-up records take their place.
        steps: how many steps are made.
    """
    assert charge.sigma is not None
    cap = None if charge.cap is None else math.ceil(charge.cap / n * canaries)
    short = replace(charge, count=steps, cap=None if cap is None or cap >= canaries else cap)
    strategy = "vmap" if spec.strategy == "auto" else spec.strategy
    own = replace(spec, start=0, strategy=strategy, physical=None, splits=_PIECES, classes=1)

    def train(images: Images, noise: NoiseSource) -> Training:
        return train_canaries(images, short, own, multiplicity, noise)

    present, absent = some(canaries), nobody(canaries)
    trained, silent = train(present, NoiseSource(0)), train(absent, NoiseSource(0))
    other = train(present, NoiseSource(1)).sums - train(absent, NoiseSource(1)).sums
    hits = trained.sums - silent.sums
    resumed, later = replace(short, count=steps + _START), replace(own, start=_START)
    noise = train_canaries(absent, resumed, later, multiplicity, NoiseSource()).sums / charge.sigma
    return [
        *_participation(charge.name, hits, other, _mean_rate(short, canaries)),
        *audit_noise(charge.name, list(noise.flatten().chunk(4))),
        *_spending(charge.name, trained, short, hits, noise * charge.sigma),
    ]


def _participation(release: str, hits: Tensor, other: Tensor, rate: float) -> list[Finding]:
    """Check who took part: `hits` and `other` are of two trainings, [steps, canaries]."""
    steps, canaries = hits.shape
    apart = float(torch.minimum(hits.abs(), (hits - 1).abs()).max())
    part = hits > 0.5
    figures = {
        "rate": statistics.rate_deviation(int(part.sum()), part.numel(), rate),
        "spread of steps per record": statistics.dispersion_deviation(part.sum(0), steps, rate),
        "spread of records per step": statistics.dispersion_deviation(part.sum(1), canaries, rate),
    }
    if rate < 1:
        figures["a step and the next correlated"] = statistics.correlation_deviation(
            part[1:].double() - rate, part[:-1].double() - rate
        )
        figures["two trainings correlated"] = statistics.correlation_deviation(part.double(), (other > 0.5).double())
    exact = Finding(release, "canary", "contribution away from 0 or C, over C", apart, "at most 0.001", apart <= 1e-3)
    return [exact] + [
        Finding(release, "canary", f"{name}, in standard errors", value, f"within {statistics.Z:g}",
                abs(value) <= statistics.Z)
        for name, value in figures.items()
    ]  # fmt: skip


def _spending(release: str, trained: Training, charge: Charge, hits: Tensor, noise: Tensor) -> list[Finding]:
    """Compare the epsilon that the ledger claims with the one that follows from what was seen."""
    largest, deviation = float(hits.abs().max()), float(noise.std())
    rate = min(1.0, float((hits > 0.5).double().mean()))
    seen = math.inf
    if largest > 0 and deviation > 1e-3 * largest and rate > 0:
        plug_in = replace(charge, sigma=deviation / largest, rate=rate, cap=None, count=len(hits))
        seen = accounting.composed([plug_in.event("train", hits.shape[1], "zero_out")], _DELTA, "rdp")
    # Rate and deviation are measured to a few percent, so is their epsilon.
    excess = seen / trained.claimed if trained.claimed else math.inf
    return [
        Finding(release, "canary", "epsilon as seen, over epsilon as charged", excess, "at most 1.1", excess <= 1.1),
        Finding(release, "ledger", "a step beyond the charge is refused", float(trained.stopped), "1", trained.stopped),
    ]


def _mean_rate(charge: Charge, canaries: int) -> float:
    """Return the probability that a record takes part in a step, truncation included."""
    if charge.cap is None:
        return charge.rate
    sizes = np.arange(canaries + 1)
    mean = float(np.minimum(sizes, charge.cap) @ stats.binom.pmf(sizes, canaries, charge.rate))
    return mean / canaries


def some(count: int) -> Images:
    """Return `count` canaries."""
    index = torch.arange(count)
    pixels = torch.stack([index // 256, index % 256], 1).to(torch.uint8)
    return Images(pixels.view(count, 1, 1, 2), torch.zeros(count, dtype=torch.int64))


def nobody(count: int) -> Images:
    """Return `count` null records in their place."""
    x = torch.full((count, 1, 1, 2), 255, dtype=torch.uint8)
    return Images(x, torch.zeros(count, dtype=torch.int64))


def train_canaries(
    images: Images,
    charge: Charge,
    spec: GradientSpec,
    multiplicity: int,
    noise: NoiseSource,
    world: World | None = None,
) -> Training:
    """Return what came out of a training on canaries, or on null records, by this process of `world`."""
    with records.vault_of(images, charge, noise, world) as (vault, ledger, _):
        steps = iter(vault.gradients(records.NAME, _Shout(len(images), multiplicity), _Table(len(images)), spec))
        over = len(images) * charge.rate / spec.clip
        made = range(spec.start, charge.count)
        sums = torch.stack([next(steps).of[0].double().flatten() * over for _ in made])
        try:
            next(steps)
            stopped = False
        except BudgetError:
            stopped = True
        return Training(sums, stopped, accounting.composed(ledger.account.events, _DELTA, "rdp"))
