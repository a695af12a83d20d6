"""The one training loop. It consumes gradients and does not ask where they came from."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dpib.checkpoint import State
from dpib.distributed import World
from dpib.errors import UserError
from dpib.images import Images
from dpib.nn.ema import MovingAverage
from dpib.privacy.gradients import Gradients
from dpib.privacy.per_record.base import trainable
from dpib.synthesizer import Log

SNAPSHOT_SECONDS = 30.0


def exact(loss: Callable[[], Tensor], model: nn.Module) -> Iterator[Gradients]:
    """Yield exact gradients of a loss that reads no sensitive record, one per step."""
    parameters = trainable(model)
    while True:
        value = loss()
        yield Gradients(list(torch.autograd.grad(value, parameters)), value.detach())


def shared(loss: Callable[[int], Tensor], model: nn.Module, start: int, world: World) -> Iterator[Gradients]:
    """Yield exact gradients of a loss over public records that the processes of `world` share out.

    Args:
        loss: maps a step to this process's part; the parts add up to the loss, whose randomness must
            follow from the step alone, so that a resumed run repeats it.
        model: differentiated at its current parameters.
        start: the first step.
        world: the processes.
    """
    parameters = trainable(model)
    for step in count(start):
        value = loss(step)
        parts = [*torch.autograd.grad(value, parameters), value.detach()]
        sums = world.all_reduce_sums(parts)
        yield Gradients(sums[:-1], sums[-1])


def constant(lr: float) -> Callable[[int], float]:
    """Return a learning rate that stays."""
    return lambda step: lr


def cosine(peak: float, steps: int) -> Callable[[int], float]:
    """Return a learning rate that falls from `peak` to 0 along half a cosine (Loshchilov and Hutter 2017)."""
    return lambda step: peak * (1 + math.cos(math.pi * step / steps)) / 2


def steps_of(peak: float, factor: float, steps: int, parts: int = 5) -> Callable[[int], float]:
    """Return a learning rate that is multiplied by `factor` after every one of `parts` equal parts."""
    return lambda step: peak * factor ** (step * parts // steps)


class Stateful(Protocol):
    """What a snapshot can hold: a network, an optimizer, a moving average."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes in training."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Restore what `state_dict` returned."""


@dataclass(frozen=True)
class Progress:
    """What a training consists of between two steps, and hence what a snapshot holds.

    Never the privacy generator: noise that could be drawn again is no noise.
    """

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    streams: dict[str, torch.Generator]
    average: MovingAverage | None
    others: Mapping[str, Stateful] = field(default_factory=dict)

    def snapshot(self, step: int) -> State:
        """Return the state after `step` steps."""
        return {
            "name": self.name,
            "step": step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "streams": {key: stream.get_state() for key, stream in self.streams.items()},
            "average": None if self.average is None else self.average.state_dict(),
            "others": {key: other.state_dict() for key, other in self.others.items()},
        }

    def restore(self, snapshot: State) -> None:
        """Continue from what `snapshot` returned."""
        self.model.load_state_dict(snapshot["model"])
        self.optimizer.load_state_dict(snapshot["optimizer"])
        for key, stream in self.streams.items():
            stream.set_state(snapshot["streams"][key])
        if self.average is not None:
            self.average.load_state_dict(snapshot["average"])
        for key, other in self.others.items():
            other.load_state_dict(snapshot["others"][key])


def done(log: Log, name: str) -> int:
    """Return how many steps of training `name` the log's snapshot holds: 0 without one."""
    snapshot = log.restored()
    return int(snapshot["step"]) if snapshot is not None and snapshot["name"] == name else 0


def fit(
    model: nn.Module,
    gradients: Iterator[Gradients],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    lr: Callable[[int], float],
    streams: dict[str, torch.Generator],
    log: Log,
    name: str,
    preview: Callable[[], Images] | None = None,
    previews: int = 10,
    average: MovingAverage | None = None,
    others: Mapping[str, Stateful] | None = None,
) -> None:
    """Train `model` for `steps`, continuing from the log's snapshot if there is one.

    Private gradients (those without a loss) must be persisted before anything that depends on them can
    be seen: their snapshot is on disk before a grid is shown, so that no step is seen and then redrawn.

    Args:
        model: trained in place.
        gradients: one item is taken per step, at the model's current parameters.
        optimizer: holds the model's parameters.
        steps: how many steps in all.
        lr: the learning rate of each step.
        streams: the utility generators that `gradients` draws from; restored with the snapshot.
        log: where curves, grids and snapshots go.
        name: prefix of the curves, and of the grid.
        preview: draws sample images, `previews` times over the training.
        previews: see `preview`.
        average: follows the model, one update per step.
        others: whatever else `gradients` changes on the way; restored with the snapshot.

    Raises:
        UserError: when the loss is no longer finite.
    """
    parameters = trainable(model)
    progress = Progress(name, model, optimizer, streams, average, others or {})
    start = done(log, name)
    if start:
        progress.restore(log.restored() or {})
        log.say(f"{name}: resumed at step {start} of {steps}")
    timer = _SaveTimer()
    curve_every, grid_every = max(1, steps // 200), max(1, steps // previews)
    for step in tqdm(range(start, steps), initial=start, total=steps, desc=name, disable=None, leave=False):
        for group in optimizer.param_groups:
            group["lr"] = lr(step)
        current = next(gradients)
        for parameter, gradient in zip(parameters, current.of, strict=True):
            parameter.grad = gradient
        optimizer.step()
        if average is not None:
            average.update(model)
        if current.loss is not None and step % curve_every == 0:
            log.curve(f"{name}/loss", _finite(current.loss, name, step), step)
        grid_due = preview is not None and (step + 1) % grid_every == 0
        if timer.due() or (grid_due and current.loss is None):
            timer.save(log, progress.snapshot(step + 1))
            log.say(f"{name}: step {step + 1} of {steps}")
        if grid_due and preview is not None:
            log.grid(f"{name}-samples", preview(), step + 1)
    log.save(progress.snapshot(steps))


class _SaveTimer:
    """Says when a snapshot is due: at most every `SNAPSHOT_SECONDS`, and never more than 5 % of the time."""

    def __init__(self) -> None:
        self._saved, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        return time.monotonic() - self._saved > max(SNAPSHOT_SECONDS, 20 * self._took)

    def save(self, log: Log, state: State) -> None:
        begun = time.monotonic()
        log.save(state)
        self._saved = time.monotonic()
        self._took = self._saved - begun


def _finite(loss: Tensor, name: str, step: int) -> float:
    value = float(loss)
    if not math.isfinite(value):
        raise UserError(f"{name}: the loss is {value} at step {step}: lower {name}.lr")
    return value
