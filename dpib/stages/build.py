"""The configured synthesizer and its parts, as every stage builds them."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpib import checkpoint, registry
from dpib.config import Config
from dpib.data.catalog import Card
from dpib.distributed import World
from dpib.errors import UserError
from dpib.public import public_classes
from dpib.section import PartSettings, Section
from dpib.stages.context import Context
from dpib.synthesizer import Part, Synthesizer, Task

FINAL = Path("checkpoints") / "final.safetensors"
"""Where a stage leaves the state of what it built."""


def build(context: Context) -> Synthesizer:
    """Return the configured synthesizer, freshly initialised from the seed; see `make`."""
    return make(context.config, context.card, context.device, context.world, context.parts)


def make(
    config: Config,
    card: Card,
    device: torch.device,
    world: World | None = None,
    parts: Mapping[str, Path] | None = None,
) -> Synthesizer:
    """Return the configured synthesizer on `device`, freshly initialised from the seed.

    Args:
        config: the whole.
        card: of the sensitive data set.
        device: where it computes.
        world: the processes.
        parts: the checkpoints of the fitted parts; one that is missing is as it is initialised.

    Raises:
        UserError: when its settings do not fit the data set's shape, or the public set's classes.
    """
    task = task_of(config, card, device, world or World(), parts or {})
    synthesizer: Synthesizer = _made(
        registry.load("synthesizer", config.synthesizer), config.recipe, task, config, card
    )
    return synthesizer


def make_part(name: str, config: Config, card: Card, device: torch.device, world: World) -> Part:
    """Return one of the configured parts, freshly initialised from the seed.

    Raises:
        UserError: when there is none of that name, or its settings do not fit.
    """
    settings, task = part_settings(config, name), task_of(config, card, device, world, {})
    part: Part = _made(registry.load("part", settings.kind), settings, task, config, card)
    return part


def part_settings(config: Config, name: str) -> PartSettings:
    """Return the settings of one of the configured parts.

    Raises:
        UserError: when there is none of that name.
    """
    if name not in config.parts:
        known = f"it has {', '.join(config.parts)}" if config.parts else "it has none"
        raise UserError(f"{config.method} has no part {name!r}; {known}")
    return config.parts[name]


def task_of(config: Config, card: Card, device: torch.device, world: World, parts: Mapping[str, Path]) -> Task:
    """Return the public facts that a synthesizer and its parts are built from."""

    @cache
    def network(name: str) -> nn.Module:
        part = make_part(name, config, card, device, world)
        if name in parts:
            part.load_state_dict(checkpoint.load(parts[name]))
        return part.network().to(device).eval().requires_grad_(False)

    classes = public_classes(config.public, config.data_root) if config.public is not None else None
    names = tuple(card.classes)
    return Task(card.shape, len(names), config.seed, device, world, names, classes, network, config.precision)


def _made(maker: Any, settings: Section, task: Task, config: Config, card: Card) -> Any:
    try:
        return maker(settings, task)
    except ValueError as error:
        raise UserError(f"{config.method} on {card.name}: {error}") from None
