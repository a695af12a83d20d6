"""The table method x data set x epsilon, as a frame, CSV and Markdown."""

import math

import pandas as pd

from analysis import published

CELL = ["method", "dataset", "profile", "epsilon"]
FIGURES = {"accuracy": "utility/accuracy_best", "fid": "fidelity/fid", "fid_random": "fidelity_random/fid"}


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cell: mean and spread (standard deviation) over seeds, beside the published figure.

    Columns: method, dataset, profile, epsilon, runs, epsilon_spent (the largest), and for accuracy, fid and
    fid_random (another embedding, comparable with nothing published) `<name>`, `<name>_std` and
    `<name>_published`; compute is the fraction of the published training. Several runs of one seed count once, the
    newest. A figure that no run has is left out.
    """
    if runs.empty:
        return pd.DataFrame(columns=[*CELL, "runs"])
    newest = runs.drop_duplicates([*CELL, "seed"], keep="last")
    rows = [_cell(dict(zip(CELL, key, strict=True)), group) for key, group in newest.groupby(CELL, sort=True)]
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def _cell(key: dict[str, object], group: pd.DataFrame) -> dict[str, object]:
    row = {**key, "runs": len(group)}
    if "privacy/epsilon" in group:
        row["epsilon_spent"] = group["privacy/epsilon"].max()
    for name, metric in FIGURES.items():
        values = group[metric].dropna() if metric in group else pd.Series(dtype=float)
        row[name] = values.mean() if len(values) else math.nan
        row[f"{name}_std"] = values.std() if len(values) > 1 else math.nan
        known = published.value(str(key["method"]), str(key["dataset"]), float(str(key["epsilon"])), metric)
        row[f"{name}_published"] = math.nan if known is None else known
    row["compute"] = group["published_compute"].astype(float).mean()
    return row


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown; what is missing is an empty cell."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    for row in table.itertuples(index=False):
        lines.append("| " + " | ".join(_text(value) for value in row) + " |")
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)
