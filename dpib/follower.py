"""What the other processes of a run do: the same work as rank 0, without a word and without a trace."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from dpib import checkpoint
from dpib.checkpoint import State
from dpib.config import Config
from dpib.data.catalog import Card
from dpib.distributed import World
from dpib.images import Images
from dpib.stages.context import Context


class SilentLog:
    """A `Log` that tells nothing: of a process that is not rank 0, or of a trial that nobody may hear of.

    Args:
        snapshot: what it continues from; the file must be readable from here.
        keeps: whether it keeps snapshots there. A follower does not: rank 0's are the same.
    """

    def __init__(self, snapshot: Path, keeps: bool = False) -> None:
        self._snapshot, self._keeps = snapshot, keeps

    def say(self, text: str) -> None:
        """Say nothing."""

    def curve(self, name: str, value: float, step: int) -> None:
        """Track nothing."""

    def grid(self, name: str, images: Images, step: int) -> None:
        """Track nothing."""

    def table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Write nothing."""

    def part(self, name: str) -> Self:
        """Return the log of one phase, as silent as this one."""
        return type(self)(checkpoint.beside(self._snapshot, name), self._keeps)

    def save(self, state: State) -> None:
        """Replace the snapshot, where it keeps any."""
        if self._keeps:
            checkpoint.save(self._snapshot, state)

    def restored(self) -> State | None:
        """Return the snapshot of an interrupted attempt."""
        return checkpoint.load(self._snapshot) if self._snapshot.is_file() else None


def announce(world: World, run_id: str, snapshot: Path | None) -> None:
    """Tell the followers which run this stage is, and, if it is yet to be done, where its snapshot lies."""
    world.share(json.dumps({"run": run_id, "snapshot": str(snapshot) if snapshot else None}))


def follow(work: Callable[[Context], object], config: Config, card: Card, world: World) -> str:
    """Take part in the stage that rank 0 announces, and return the id of its run.

    That run is finished when rank 0 announces the next stage, not before: its artifacts are not there yet.

    Args:
        work: the stage's function.
        config: the same as rank 0's.
        card: likewise.
        world: the processes.
    """
    told = json.loads(world.share())
    if told["snapshot"] is not None:
        with tempfile.TemporaryDirectory(prefix="dpib-") as folder:
            artifacts, private = Path(folder) / "artifacts", Path(folder) / "private"
            artifacts.mkdir()
            private.mkdir()
            work(Context(config, card, world.device, artifacts, private, SilentLog(Path(told["snapshot"])), world))
    return str(told["run"])
