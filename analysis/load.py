"""Runs of a tracking store as one tidy frame: a row per main run, columns by the store's own names."""

from collections.abc import Sequence

import pandas as pd

from analysis.compute import fraction_of_published
from dpib.tracking import Record

KEYS = ("run", "name", "method", "dataset", "epsilon", "seed", "profile", "note", "private", "published_compute")
_PREFIXES = ("utility/", "fidelity", "privacy/", "time/")


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per main run: what it was told (`KEYS`), and each of its metrics under its own name.

    `epsilon` is the budget that was asked for; `privacy/epsilon` what was spent. Runs of other stages are
    left out. A metric that a run does not have is missing (NaN).
    """
    rows = [_row(record) for record in records if record.tags.get("dpib.stage") == "main"]
    names = sorted({name for row in rows for name in row} - set(KEYS))
    return pd.DataFrame(rows, columns=[*KEYS, *names])


def _row(record: Record) -> dict[str, object]:
    tags, params = record.tags, record.params
    note = params.get("cfg.note", "none")
    return {
        "run": record.run_id,
        "name": record.name,
        "method": tags["dpib.method"],
        "dataset": tags["dpib.dataset"],
        "epsilon": float(params["cfg.epsilon"]),
        "seed": int(params["cfg.seed"]),
        "profile": params["cfg.profile"],
        "note": None if note == "none" else note,
        "private": tags.get("dpib.private") == "true",
        "published_compute": fraction_of_published(tags["dpib.method"], tags["dpib.dataset"], params),
        **{name: value for name, value in record.metrics.items() if name.startswith(_PREFIXES)},
    }
