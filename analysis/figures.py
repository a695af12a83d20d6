"""Accuracy and FID over epsilon, a line per method, a panel per data set."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis import published
from analysis.tables import FIGURES

TITLES = {"accuracy": "Accuracy on test images (%)", "fid": "FID", "fid_random": "FID in a random embedding"}


def over_epsilon(table: pd.DataFrame, figure: str) -> Figure | None:
    """Draw one of `FIGURES` over epsilon from a `tables.summary`; None where no run has it.

    The spread over seeds is a bar; the published figures are hollow markers in the method's colour.
    """
    if figure not in table or table[figure].isna().all():
        return None
    datasets = sorted(table["dataset"].unique())
    drawn = Figure(figsize=(1.2 + 4.2 * len(datasets), 3.6), layout="constrained")
    FigureCanvasAgg(drawn)
    for axes, dataset in zip(_row(drawn, len(datasets)), datasets, strict=True):
        here = table[(table["dataset"] == dataset) & table[figure].notna()].sort_values("epsilon")
        for number, (label, line) in enumerate(here.groupby(["method", "profile"], sort=True)):
            method, profile = label
            colour = f"C{number}"
            spread = line.get(f"{figure}_std")
            axes.errorbar(
                line["epsilon"], line[figure], yerr=spread, marker="o", capsize=3, color=colour,
                label=f"{method} ({profile})",
            )  # fmt: skip
            known = _known(str(method), dataset, figure)
            if not known.empty:
                axes.plot(
                    known["epsilon"], known["value"], "o:", mfc="none", color=colour, label=f"{method}, published"
                )
        axes.set(xscale="log", xlabel="epsilon", ylabel=TITLES[figure], title=dataset)
        ticks = sorted(set(here["epsilon"]))
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return drawn


def save(drawn: Figure, folder: Path, name: str) -> None:
    """Write a figure as SVG and PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending in ("svg", "png"):
        # Without a date, the same runs give the same file.
        drawn.savefig(folder / f"{name}.{ending}", dpi=150, metadata={"Date": None} if ending == "svg" else None)


def _row(drawn: Figure, count: int) -> list[Any]:
    return list(drawn.subplots(1, count, squeeze=False)[0])


def _known(method: str, dataset: str, figure: str) -> pd.DataFrame:
    table = published.results()
    here = table[(table["method"] == method) & (table["dataset"] == dataset.rpartition("_")[0])]
    return here[here["metric"] == FIGURES[figure]].sort_values("epsilon")
