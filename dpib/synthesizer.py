"""What a method is to the rest of dpib: all that a newcomer must read to add one (see docs/extend.md)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from dpib.checkpoint import State
from dpib.distributed import World
from dpib.images import Images
from dpib.precision import Precision, lowers
from dpib.privacy.events import Charge
from dpib.privacy.vault import Vault
from dpib.section import PartSettings, Section


def _no_part(name: str) -> nn.Module:
    raise KeyError(name)


@dataclass(frozen=True)
class Task:
    """The public facts that a synthesizer is built from, and the processes that share its work.

    `public_classes` are the names of the public set's classes, None where there is no such set. `part` returns the
    network of a part by its name in the configuration, fitted, frozen and on `device`, loaded when it is asked for.
    """

    shape: tuple[int, int, int]
    classes: int
    seed: int
    device: torch.device
    world: World = field(default_factory=World)
    class_names: tuple[str, ...] = ()
    public_classes: tuple[str, ...] | None = None
    part: Callable[[str], nn.Module] = _no_part
    precision: Precision = "fp32"

    @property
    def lower(self) -> bool:
        """Whether passes through networks are made in bfloat16."""
        return lowers(self.precision, self.device)


class Log(Protocol):
    """What a stage tells the world, and how it survives being killed."""

    def say(self, text: str) -> None:
        """Print a line and keep it in `logs/stage.log`."""

    def curve(self, name: str, value: float, step: int) -> None:
        """Track a number by step. Never a clean function of sensitive records."""

    def grid(self, name: str, images: Images, step: int) -> None:
        """Track a grid of synthetic or public images by step, ten to a row."""

    def table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Write rows of one kind to `tables/<name>.csv`. Never a clean function of sensitive records."""

    def save(self, state: State) -> None:
        """Keep a snapshot from which `restored` continues after a crash."""

    def restored(self) -> State | None:
        """Return the last snapshot of an interrupted stage, or None on a fresh start."""

    def part(self, name: str) -> Self:
        """Return the log of one phase of the stage, which has a snapshot of its own."""


class Part(Protocol):
    """A network trained on public images that methods share.

    It is constructed as ``Part(settings, task)``; `Settings` has a `file`, see `PartSettings`.
    """

    Settings: ClassVar[type[PartSettings]]

    def fit(self, public: Images, log: Log) -> None:
        """Learn from public images (already in the task's shape; labels of their own)."""

    def network(self) -> nn.Module:
        """Return the network, which need not have been fitted: an audit looks at mechanisms, not at weights."""

    def state_dict(self) -> State:
        """Return all that `network` needs."""

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""


class Synthesizer(Protocol):
    """A differentially private generator of labelled images.

    It is constructed as ``Synthesizer(settings, task)``, where `Settings` is its own typed section of the
    configuration. It sees sensitive records through the vault alone: what the vault returns is already
    private, and all else it does is post-processing that needs no privacy review.

    `reads` says which keys of its settings decide the result of a stage (query, pretrain, train, generate): a stage
    is found again by these. A key that begins with - is left out of what an earlier one names.
    """

    Settings: ClassVar[type[Section]]
    reads: ClassVar[Mapping[str, tuple[str, ...]]]

    def plan(self, n: int) -> tuple[Charge, ...]:
        """Return every charge that n records will see, of the query and of the training. Pure: reads no data."""

    def query(self, vault: Vault, log: Log) -> None:
        """Make the releases that come before pretraining; called if the plan has charges of stage `query`."""

    def pretrain(self, public: Images | None, log: Log) -> None:
        """Learn from public images (already in the task's shape; labels of their own), and from what `query` released.

        Called if there is one or the other; may do nothing.
        """

    def train(self, vault: Vault, log: Log) -> None:
        """Learn from the sensitive images, through the vault's releases named in the plan."""

    def generate(self, labels: Tensor, generator: torch.Generator) -> Images:
        """Draw exactly len(labels) images, in the labels' order; the same ones for the same generator."""

    def class_proportions(self) -> Tensor | None:
        """Return released class proportions [classes], or None if the method released none."""

    def state_dict(self) -> State:
        """Return all that the next stage needs, `generate` the last of them."""

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
