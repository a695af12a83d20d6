"""The split of the sensitive training set: by position, fixed for ever, the same for everybody."""

import torch

from dpib import seeding
from dpib.images import Images

# Positions are public under zero-out neighbours, so the permutation may be: it must only never change.
_SEED = 20250318


def holdout_positions(n: int, held_out: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions (kept, held out) of a set of n; both sorted."""
    order = torch.randperm(n, generator=seeding.generator(_SEED, "holdout", n))
    return order[held_out:].sort().values, order[:held_out].sort().values


def split_holdout(images: Images, held_out: int) -> tuple[Images, Images]:
    """Return (train, val) with `held_out` records in val."""
    kept, val = holdout_positions(len(images), held_out)
    return images.take(kept), images.take(val)
