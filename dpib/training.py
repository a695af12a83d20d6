"""The one training loop. It consumes gradients and does not ask where they came from."""

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dpib.checkpoint import State
from dpib.errors import UserError
from dpib.images import Images
from dpib.privacy.gradients import Gradients
from dpib.synthesizer import Log

SNAPSHOT_SECONDS = 30.0


def exact(loss: Callable[[], Tensor], model: nn.Module) -> Iterator[Gradients]:
    """Yield exact gradients of a loss that reads no sensitive record, one per step."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    while True:
        value = loss()
        yield Gradients(list(torch.autograd.grad(value, parameters)), value.detach())


def cosine(peak: float, steps: int) -> Callable[[int], float]:
    """Return a learning rate that falls from `peak` to 0 along half a cosine (Loshchilov and Hutter 2017)."""
    return lambda step: peak * (1 + math.cos(math.pi * step / steps)) / 2


def steps_of(peak: float, factor: float, steps: int, parts: int = 5) -> Callable[[int], float]:
    """Return a learning rate that is multiplied by `factor` after every one of `parts` equal parts."""
    return lambda step: peak * factor ** (step * parts // steps)


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
) -> None:
    """Train `model` for `steps`, continuing from the log's snapshot if there is one.

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

    Raises:
        UserError: when the loss is no longer finite.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    start, saved = 0, time.monotonic()
    snapshot = log.restored()
    if snapshot is not None and snapshot["name"] == name:
        start = _restore(snapshot, model, optimizer, streams)
        log.say(f"{name}: resumed at step {start} of {steps}")
    curve_every, grid_every = max(1, steps // 200), max(1, steps // previews)
    for step in tqdm(range(start, steps), initial=start, total=steps, desc=name, disable=None, leave=False):
        for group in optimizer.param_groups:
            group["lr"] = lr(step)
        current = next(gradients)
        for parameter, gradient in zip(parameters, current.of, strict=True):
            parameter.grad = gradient
        optimizer.step()
        if current.loss is not None and step % curve_every == 0:
            log.curve(f"{name}/loss", _finite(current.loss, name, step), step)
        if preview is not None and (step + 1) % grid_every == 0:
            log.grid(f"{name}-samples", preview(), step + 1)
        if time.monotonic() - saved > SNAPSHOT_SECONDS:
            log.save(_snapshot(name, step + 1, model, optimizer, streams))
            saved = time.monotonic()
            log.say(f"{name}: step {step + 1} of {steps}")
    log.save(_snapshot(name, steps, model, optimizer, streams))


def _finite(loss: Tensor, name: str, step: int) -> float:
    value = float(loss)
    if not math.isfinite(value):
        raise UserError(f"{name}: the loss is {value} at step {step}: lower {name}.lr")
    return value


def _snapshot(
    name: str,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    streams: dict[str, torch.Generator],
) -> State:
    return {
        "name": name,
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "streams": {key: stream.get_state() for key, stream in streams.items()},
    }


def _restore(
    snapshot: State, model: nn.Module, optimizer: torch.optim.Optimizer, streams: dict[str, torch.Generator]
) -> int:
    model.load_state_dict(snapshot["model"])
    optimizer.load_state_dict(snapshot["optimizer"])
    for key, stream in streams.items():
        stream.set_state(snapshot["streams"][key])
    return int(snapshot["step"])
