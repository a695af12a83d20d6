"""What a running stage tells the world: curves, grids, a log file, snapshots, and before all of them its ledger."""

import copy
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from dpib import checkpoint
from dpib.atomic import replacing
from dpib.checkpoint import State
from dpib.grids import grid
from dpib.images import Images
from dpib.privacy.ledger import LEDGER, Account
from dpib.tracking import Run
from dpib.workspace import Workspace


class StageLog:
    """The `Log` of a running stage: tracked curves and grids, a log file, snapshots."""

    def __init__(self, run: Run, workspace: Workspace, snapshot: Path) -> None:
        self._run = run
        self._workspace = workspace
        self._snapshot = snapshot
        self._artifacts = workspace.artifacts
        self._file = workspace.artifacts / "logs" / "stage.log"
        self._file.parent.mkdir(exist_ok=True)
        self._ledger = workspace.artifacts / LEDGER
        self._told: int | None = None

    def say(self, text: str) -> None:
        """Print a line and keep it in `logs/stage.log`."""
        print(text, file=sys.stderr, flush=True)
        with self._file.open("a", encoding="utf-8") as handle:
            handle.write(text + "\n")

    def curve(self, name: str, value: float, step: int) -> None:
        """Track a number by step."""
        self._tell_ledger()
        self._run.curve(name, value, step)

    def grid(self, name: str, images: Images, step: int) -> None:
        """Track a grid of synthetic images by step, ten to a row."""
        self._tell_ledger()
        self._run.image(name, grid(images.x, 10), step)

    def table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Write rows of one kind to `tables/<name>.csv`."""
        with (
            replacing(self._artifacts / "tables" / f"{name}.csv") as temporary,
            temporary.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def part(self, name: str) -> Self:
        """Return the log of one phase, with a snapshot of its own beside this one."""
        phase = copy.copy(self)
        phase._snapshot = checkpoint.beside(self._snapshot, name)
        return phase

    def save(self, state: State) -> None:
        """Replace the snapshot."""
        checkpoint.save(self._snapshot, state)
        self._workspace.pause()

    def restored(self) -> State | None:
        """Return the snapshot of an interrupted attempt."""
        return checkpoint.load(self._snapshot) if self._snapshot.is_file() else None

    def tainted(self) -> bool:
        """Return whether the stage's ledger says that its noise was not private."""
        return self._ledger.is_file() and Account.parse(self._ledger.read_text(encoding="utf-8")).tainted

    def _tell_ledger(self) -> None:
        """Track the ledger before what it speaks of: a run that is killed keeps it beside the grids it has shown."""
        if self._ledger.is_file() and (changed := self._ledger.stat().st_mtime_ns) != self._told:
            self._run.artifact(self._ledger, str(LEDGER.parent))
            self._told = changed
