"""Fidelity metrics over features, by torch-fidelity's own functions. Each takes (synthetic, real).

torch-fidelity is imported where it is used: it takes seconds, and most commands measure nothing.
"""

from typing import Any

from dpib.metrics.features import Features


class Unavailable(Exception):
    """This metric cannot be computed here; the text says why."""


def fid(synthetic: Features, real: Features) -> dict[str, float]:
    """Return the Frechet distance between Gaussian fits (Heusel et al. 2017); smaller is better."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    smallest = min(len(synthetic), len(real))
    if smallest < 2:
        raise Unavailable("FID needs at least two images on each side")
    a, b = (fid_features_to_statistics(f.pool.double()) for f in (synthetic, real))
    return {"fid": fid_statistics_to_metric(a, b, verbose=False)["frechet_inception_distance"]}


def kid(synthetic: Features, real: Features) -> dict[str, float]:
    """Return the kernel distance, mean of 100 subsets of at most 1000 (Binkowski et al. 2018); smaller is better."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    size = min(1000, len(synthetic), len(real))
    if size < 2:
        raise Unavailable("KID needs at least two images on each side")
    result = kid_features_to_metric(synthetic.pool, real.pool, kid_subsets=100, kid_subset_size=size, verbose=False)
    return {"kid": result["kernel_inception_distance_mean"]}


def precision_recall(synthetic: Features, real: Features) -> dict[str, float]:
    """Return improved precision and recall with k = 3 (Kynkaanniemi et al. 2019); larger is better."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    if min(len(synthetic), len(real)) < 4:
        raise Unavailable("precision and recall need at least four images on each side")
    result: dict[str, Any] = prc_features_to_metric(
        synthetic.pool, real.pool, prc_neighborhood=3, save_cpu_ram=True, prc_batch_size=2000, verbose=False
    )
    return {"precision": result["precision"], "recall": result["recall"]}


def inception_score(synthetic: Features, real: Features) -> dict[str, float]:
    """Return the Inception Score over ten splits (Salimans et al. 2016); larger is better."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    if synthetic.logits is None:
        raise Unavailable("the Inception Score needs a classifier head, which these weights do not have")
    return {"inception_score": isc_features_to_metric(synthetic.logits)["inception_score_mean"]}
