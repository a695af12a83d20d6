"""Pretrain: learn from public images, at no privacy cost."""

from pathlib import Path

import torch

from dpib import checkpoint, registry
from dpib.config import Config
from dpib.data.catalog import Card
from dpib.distributed import World
from dpib.errors import UserError
from dpib.public import read_public
from dpib.stages.context import Context
from dpib.synthesizer import Synthesizer, Task

FINAL = Path("checkpoints") / "final.safetensors"


def build(context: Context) -> Synthesizer:
    """Return the configured synthesizer, freshly initialised from the seed; see `make`."""
    return make(context.config, context.card, context.device, context.world)


def make(config: Config, card: Card, device: torch.device, world: World | None = None) -> Synthesizer:
    """Return the configured synthesizer on `device`, freshly initialised from the seed.

    Raises:
        UserError: when its settings do not fit the data set's shape.
    """
    task = Task(card.shape, len(card.classes), config.seed, device, world or World())
    maker = registry.load("synthesizer", config.synthesizer)
    try:
        synthesizer: Synthesizer = maker(config.recipe, task)
    except ValueError as error:
        raise UserError(f"{config.method} on {card.name}: {error}") from None
    return synthesizer


def pretrain(context: Context) -> dict[str, float]:
    """Write `checkpoints/final.safetensors` of the synthesizer pretrained on `config.public`."""
    config = context.config
    assert config.public is not None
    public = read_public(config.public, context.card.shape, config.data_root)
    each = public.y.bincount()
    spread = f"{int(each.min())} to {int(each.max())} of each of {len(each)} classes"
    context.log.say(f"pretrain: {len(public)} public images of {config.public}, {spread}")
    synthesizer = build(context)
    synthesizer.pretrain(public, context.log)
    checkpoint.save(context.artifacts / FINAL, synthesizer.state_dict())
    return {"pretrain/images": float(len(public))}
