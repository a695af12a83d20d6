"""A smoke alarm for copied training images: nearest neighbours among training and among held-out images.

Passing proves nothing. One copy in a hundred goes unnoticed, and sets that pass remain open to membership
attacks (Yao et al., The DCR Delusion, arXiv 2505.01524). Only the ledger says what is protected.
"""

import torch
from torch import Tensor

WARNING = "passing proves nothing"
_CHUNK = 1000


def memorisation(synthetic: Tensor, train: Tensor, held_out: Tensor) -> dict[str, float]:
    """Compare how close synthetic images come to those that were trained on and to those that were not.

    Both real sets are cut to the size of the smaller one, because the nearest of more images is nearer.

    Args:
        synthetic: features (or pixels) [m, d].
        train: features of training images [n, d].
        held_out: features of real images that were never trained on [k, d].

    Returns:
        `closer_to_train`: share of synthetic images whose nearest real image is a training image, ties
        counting half (1/2 where nothing was copied). `distance_ratio`: mean distance to the nearest
        training image over that to the nearest held-out one (1). `auc`: how well the distance to the
        nearest synthetic image tells training from held-out images (1/2), and `tpr_at_1_fpr`: the share of
        training images that it finds while calling 1 % of the held-out ones found (0.01).

    Raises:
        ValueError: when a set is empty.
    """
    n = min(len(train), len(held_out))
    if n == 0 or len(synthetic) == 0:
        raise ValueError("nearest neighbours need synthetic, training and held-out images")
    train, held_out = train[:n], held_out[:n]
    to_train, from_train = nearest(synthetic, train)
    to_held_out, from_held_out = nearest(synthetic, held_out)
    closer = (to_train < to_held_out).double() + (to_train == to_held_out).double() / 2
    threshold = torch.quantile(from_held_out, 0.01)
    return {
        "closer_to_train": float(closer.mean()),
        "distance_ratio": float(to_train.mean() / to_held_out.mean().clamp(min=1e-30)),
        "auc": _auc(-from_train, -from_held_out),
        "tpr_at_1_fpr": float((from_train < threshold).double().mean()),
    }


def nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return for every row of `a` the distance to its nearest row of `b`, and the other way round, float64."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    ways = torch.full((len(b),), torch.inf, dtype=torch.float64)
    found = []
    for chunk in a.split(_CHUNK):
        # Differences, not products: the distance of a copy is exactly 0 and must not drown in rounding.
        distances = torch.cdist(chunk, b, compute_mode="donot_use_mm_for_euclid_dist")
        found.append(distances.amin(1))
        ways = torch.minimum(ways, distances.amin(0))
    return torch.cat(found), ways


def _auc(positive: Tensor, negative: Tensor) -> float:
    """Return P(positive > negative) + P(equal) / 2 over all pairs (Mann and Whitney)."""
    ordered = negative.sort().values
    below = torch.searchsorted(ordered, positive, right=False)
    not_above = torch.searchsorted(ordered, positive, right=True)
    return float((below + not_above).double().mean() / (2 * len(negative)))
