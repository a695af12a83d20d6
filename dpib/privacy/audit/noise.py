"""Is this standard normal noise, everywhere, and fresh every time?"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from dpib.privacy.audit import statistics
from dpib.privacy.audit.findings import Finding

_ROW = 64


def audit_noise(release: str, runs: Sequence[Tensor]) -> list[Finding]:
    """Return the findings about `runs`: flat noise vectors over sigma, which must be independent of each other."""
    every = torch.cat(list(runs))
    width = min(_ROW, len(runs[0]))
    rows = torch.cat([run[: len(run) // width * width].view(-1, width) for run in runs])
    apart = max(abs(statistics.correlation_deviation(a, b)) for a, b in combinations(runs, 2))
    z, p = f"within {statistics.Z:g}", f"at least {statistics.ALPHA:g}"
    scale, mean = statistics.scale_deviation(every), statistics.mean_deviation(every)
    shape, row = statistics.normality(every), statistics.weakest_row(rows)

    def finding(check: str, value: float, allowed: str, passed: bool) -> Finding:
        return Finding(release, "noise", check, value, allowed, passed)

    return [
        finding("variance, in standard errors", scale, z, abs(scale) <= statistics.Z),
        finding("mean, in standard errors", mean, z, abs(mean) <= statistics.Z),
        finding("normal shape, p-value", shape, p, shape >= statistics.ALPHA),
        finding("weakest row, p-value", row, p, row >= statistics.ALPHA),
        finding("draws correlated, in standard errors", apart, z, apart <= statistics.Z),
    ]
