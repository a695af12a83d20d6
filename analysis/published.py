"""The published figures (DPImageBench, arXiv 2503.14681; DP-FETA, arXiv 2504.00997), by our names."""

from functools import cache
from pathlib import Path

import pandas as pd

from dpib.config.compose import find_method
from dpib.errors import UserError

FOLDER = Path(__file__).resolve().parent / "published"
_METRICS = {
    "accuracy_percent": "utility/accuracy_best",
    "fid": "fidelity/fid",
    "inception_score": "fidelity/inception_score",
    "precision": "fidelity/precision",
    "recall": "fidelity/recall",
    "fld": "fidelity/fld",
    "image_reward": "fidelity/image_reward",
}


@cache
def results() -> pd.DataFrame:
    """Return the published tables: columns method, dataset (without its size), epsilon, metric, value."""
    files = ("published_results.csv", "published_results_dpfeta.csv")
    table = pd.concat([pd.read_csv(FOLDER / name) for name in files], ignore_index=True)
    return pd.DataFrame(
        {
            "method": table["method"].map(_ours),
            "dataset": table["dataset"],
            "epsilon": table["eps"].astype(float),
            "metric": table["metric"].map(_METRICS),
            "value": table["value"].astype(float),
        }
    )


def value(method: str, dataset: str, epsilon: float, metric: str) -> float | None:
    """Return the published figure for a cell, or None; `dataset` is a card's name, such as mnist_28."""
    table = results()
    here = table[
        (table["method"] == method)
        & (table["dataset"] == dataset.rpartition("_")[0])
        & (table["epsilon"] == epsilon)
        & (table["metric"] == metric)
    ]
    return None if here.empty else float(here["value"].iloc[0])


def _ours(name: str) -> str:
    """Return our name of a published method: that of the recipe whose alias it is, else its own in lower case."""
    try:
        return find_method(name).stem
    except UserError:
        return name.lower().replace(" (sd)", "-sd").replace(" ", "-")
