"""Pretrain: learn from public images, at no privacy cost."""

from pathlib import Path

import torch

from dpib import checkpoint, registry
from dpib.config import Config
from dpib.data.catalog import Card
from dpib.errors import UserError
from dpib.public import read_public
from dpib.synthesizer import Log, Synthesizer, Task

FINAL = Path("checkpoints") / "final.safetensors"


def build(config: Config, card: Card, device: torch.device) -> Synthesizer:
    """Return the configured synthesizer, freshly initialised from the seed."""
    task = Task(card.shape, len(card.classes), config.seed, device)
    maker = registry.load("synthesizer", config.synthesizer)
    try:
        synthesizer: Synthesizer = maker(config.recipe, task)
    except ValueError as error:
        raise UserError(f"{config.method} on {card.name}: {error}") from None
    return synthesizer


def pretrain(config: Config, card: Card, device: torch.device, artifacts: Path, log: Log) -> dict[str, float]:
    """Write `checkpoints/final.safetensors` of the synthesizer pretrained on `config.public`."""
    assert config.public is not None
    public = read_public(config.public, card.shape, config.data_root)
    log.say(f"pretrain: {len(public)} public images of {config.public}")
    synthesizer = build(config, card, device)
    synthesizer.pretrain(public, log)
    checkpoint.save(artifacts / FINAL, synthesizer.state_dict())
    return {"pretrain/images": float(len(public))}
