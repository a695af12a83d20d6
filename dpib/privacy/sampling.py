"""Which records take part in a step: Poisson sampling, optionally truncated to a largest size."""

import numpy as np
import torch
from torch import Tensor

from dpib.privacy.rng import NoiseSource


def poisson(noise: NoiseSource, n: int, rate: float, cap: int | None) -> Tensor:
    """Return a mask bool [n] in which every record is present with probability `rate`, independently.

    More than `cap` records are cut down to a uniformly random subset of that size, which is the
    mechanism that truncated Poisson accounting prices (Ganesh 2025, arXiv 2508.15089).
    """
    mask = noise.bernoulli(n, rate)
    chosen = mask.nonzero().flatten()
    if cap is None or len(chosen) <= cap:
        return mask
    order = torch.from_numpy(np.argsort(noise.uniform(len(chosen)), kind="stable"))
    kept = torch.zeros(n, dtype=torch.bool)
    kept[chosen[order[:cap]]] = True
    return kept
