"""Everything that is made of one set of runs: tables and figures in a folder."""

from collections.abc import Sequence
from pathlib import Path

from analysis import figures, load, tables
from dpib.atomic import write_text
from dpib.tracking import Record


def write(records: Sequence[Record], folder: Path) -> str:
    """Write `runs.csv`, `summary.csv`, `summary.md` and the figures; return the summary as Markdown."""
    runs = load.frame(records)
    table = tables.summary(runs)
    text = tables.markdown(table)
    write_text(folder / "runs.csv", runs.to_csv(index=False))
    write_text(folder / "summary.csv", table.to_csv(index=False))
    write_text(folder / "summary.md", text)
    for name in tables.FIGURES:
        drawn = figures.over_epsilon(table, name)
        if drawn is not None:
            figures.save(drawn, folder / "figures", f"{name}_over_epsilon")
    return text
