"""Pretrain: learn from public images, at no privacy cost."""

import hashlib
from pathlib import Path

import torch

from dpib import checkpoint, registry
from dpib.config import Config
from dpib.data.catalog import Card
from dpib.distributed import World
from dpib.errors import UserError
from dpib.images import set_digest
from dpib.overlap import absolute, checked
from dpib.privacy.ledger import SOURCES, Public
from dpib.public import read_public
from dpib.sensitive import Sensitive
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


def sources(pretrained: Path) -> list[Public]:
    """Return what a checkpoint without a ledger learnt from; of one that does not say it, its own name and digest."""
    text = checkpoint.text(pretrained, "public")
    if text is not None:
        return SOURCES.validate_json(text)
    with pretrained.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return [Public(name=f"checkpoint {pretrained.name}", digest=digest)]


def pretrain(context: Context) -> dict[str, float]:
    """Write `checkpoints/final.safetensors` of the synthesizer pretrained on `config.public`.

    Raises:
        UserError: when these images are the sensitive ones, as far as this machine can tell.
    """
    config = context.config
    assert config.public is not None
    public = read_public(config.public, context.card.shape, config.data_root)
    source = Public(name=absolute(config.public), digest=set_digest(public))
    sensitive = Sensitive(config, context.card)
    if sensitive.prepared:  # else the training finds it out
        checked(source, sensitive, context.card, config.data_root, config.public_overlap is not None)
    each = public.y.bincount()
    spread = f"{int(each.min())} to {int(each.max())} of each of {len(each)} classes"
    context.log.say(f"pretrain: {len(public)} public images of {config.public}, {spread}")
    synthesizer = build(context)
    synthesizer.pretrain(public, context.log)
    checkpoint.save(context.artifacts / FINAL, synthesizer.state_dict(), public=SOURCES.dump_json([source]).decode())
    return {"pretrain/images": float(len(public))}
