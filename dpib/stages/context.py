"""What every stage function is given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dpib.atomic import write_text
from dpib.config import Config
from dpib.data.catalog import Card
from dpib.distributed import World
from dpib.precision import lowers
from dpib.synthesizer import Log


@dataclass(frozen=True)
class Context:
    """One stage at work.

    `artifacts` becomes the tracked run's artifacts when the stage is done; `private` never leaves this
    machine and is deleted then. All processes of `world` run the stage; on all but rank 0 both folders are
    temporary and the log is silent. `parts` are the checkpoints of the networks that the method shares with others.
    """

    config: Config
    card: Card
    device: torch.device
    artifacts: Path
    private: Path
    log: Log
    world: World
    parts: Mapping[str, Path] = field(default_factory=dict)

    @property
    def lower(self) -> bool:
        """Whether passes through networks are made in bfloat16."""
        return lowers(self.config.precision, self.device)

    def named(self, name: str) -> str:
        """Return the name under which this work charges: `name`, or the one that it was begun under."""
        path = self.private / "name.txt"
        if not path.is_file():
            write_text(path, name)
        return path.read_text(encoding="utf-8")
