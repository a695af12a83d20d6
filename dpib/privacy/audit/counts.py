"""Audit of `Vault.release_count`: one record moves a count by one, and the noise is what the ledger says."""

import math
from dataclasses import replace

import torch
from scipy import stats
from torch import Tensor

from dpib.privacy.audit import records, statistics
from dpib.privacy.audit.findings import Finding
from dpib.privacy.events import Charge
from dpib.privacy.rng import NoiseSource

_RECORDS = 9
_RELEASES = 300
_SPREAD = 3.0  # of the noise
_KINDS = {
    "gaussian": (Charge("count", "gaussian", "an audit", sigma=_SPREAD), stats.norm(scale=_SPREAD)),
    "laplace": (Charge("count", "laplace", "an audit", scale=_SPREAD), stats.laplace(scale=_SPREAD)),
}
# The size of the noise: its mean and its standard deviation over the spread.
_SIZES = {"gaussian": (math.sqrt(2 / math.pi), math.sqrt(1 - 2 / math.pi)), "laplace": (1.0, 1.0)}
RELEASE = "counts"


def audit_counts() -> list[Finding]:
    """Return the findings about counts with Gaussian and with Laplace noise."""
    found: list[Finding] = []
    for kind, (charge, law) in _KINDS.items():
        whole, less = (float(_released(charge, 1, NoiseSource(0), right)[0]) for right in (True, False))
        moves = abs(whole - less)
        drawn = torch.stack(_released(charge, _RELEASES, NoiseSource(), True)) - _RECORDS
        shape = float(stats.kstest(drawn.numpy(), law.cdf).pvalue)
        mean, deviation = _SIZES[kind]
        size = (float(drawn.abs().mean()) / _SPREAD - mean) / deviation * math.sqrt(_RELEASES)
        halves = abs(statistics.correlation_deviation(drawn[::2], drawn[1::2]))
        found += [
            Finding(RELEASE, "sensitivity", f"{kind}: change by one record", moves, "above 0, at most 1",
                    0 < moves <= 1 + 1e-9),
            Finding(RELEASE, "noise", f"{kind}: shape and scale, p-value", shape, f"at least {statistics.ALPHA:g}",
                    shape >= statistics.ALPHA),
            Finding(RELEASE, "noise", f"{kind}: size, in standard errors", size, f"within {statistics.Z:g}",
                    abs(size) <= statistics.Z),
            Finding(RELEASE, "noise", f"{kind}: neighbouring draws correlated, in standard errors", halves,
                    f"within {statistics.Z:g}", halves <= statistics.Z),
        ]  # fmt: skip
    return found


def _released(charge: Charge, times: int, noise: NoiseSource, right: bool) -> list[Tensor]:
    """Return `times` counts of records of class 0, all `_RECORDS` of them, or all but the middle one."""
    images = records.nulls(_RECORDS, (1, 1, 1))
    if not right:
        images.y[_RECORDS // 2] = 1
    plan = [replace(charge, name=f"count-{i}") for i in range(times)]
    with records.vault_for(images, plan, noise) as (vault, ledger):
        ledger.reserve(plan, "train")
        counted = [vault.release_count(c.name, lambda x: torch.zeros(len(x), dtype=torch.int64)) for c in plan]
    return [torch.tensor(value, dtype=torch.float64) for value in counted]
