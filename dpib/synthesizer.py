"""What a method is to the rest of dpib: all that a newcomer must read to add one (see docs/extend.md)."""

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from dpib.checkpoint import State
from dpib.distributed import World
from dpib.images import Images
from dpib.privacy.events import Charge
from dpib.privacy.vault import Vault
from dpib.section import Section


@dataclass(frozen=True)
class Task:
    """The public facts that a synthesizer is built from, and the processes that share its work."""

    shape: tuple[int, int, int]
    classes: int
    seed: int
    device: torch.device
    world: World = field(default_factory=World)


class Log(Protocol):
    """What a stage tells the world, and how it survives being killed."""

    def say(self, text: str) -> None:
        """Print a line and keep it in `logs/stage.log`."""

    def curve(self, name: str, value: float, step: int) -> None:
        """Track a number by step. Never a clean function of sensitive records."""

    def grid(self, name: str, images: Images, step: int) -> None:
        """Track a grid of synthetic images by step."""

    def save(self, state: State) -> None:
        """Keep a snapshot from which `restored` continues after a crash."""

    def restored(self) -> State | None:
        """Return the last snapshot of an interrupted stage, or None on a fresh start."""


class Synthesizer(Protocol):
    """A differentially private generator of labelled images.

    It is constructed as ``Synthesizer(settings, task)``, where `Settings` is its own typed section of the
    configuration. It sees sensitive records through the vault alone: what the vault returns is already
    private, and all else it does is post-processing that needs no privacy review.
    """

    Settings: ClassVar[type[Section]]

    def plan(self, n: int) -> tuple[Charge, ...]:
        """Return every charge that training on n records will make. Pure: reads no data."""

    def pretrain(self, public: Images, log: Log) -> None:
        """Learn from public images (already in the task's shape; labels of their own). May do nothing."""

    def train(self, vault: Vault, log: Log) -> None:
        """Learn from the sensitive images, through the vault's releases named in the plan."""

    def generate(self, labels: Tensor, generator: torch.Generator) -> Images:
        """Draw exactly len(labels) images, in the labels' order; the same ones for the same generator."""

    def class_proportions(self) -> Tensor | None:
        """Return released class proportions [classes], or None if the method released none."""

    def state_dict(self) -> State:
        """Return all that `generate` needs."""

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
