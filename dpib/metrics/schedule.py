"""How a classifier is trained. Read without torch, as every configuration is."""

from typing import Literal

from pydantic import Field

from dpib.section import Positive, Section


class Schedule(Section):
    """How each classifier is trained."""

    optimizer: Literal["adam", "sgd"]
    lr: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd only")
    weight_decay: float = Field(default=0.0, ge=0)
    epochs: Positive
    batch: Positive
    decay: float = Field(default=0.2, gt=0, le=1, description="step schedule: factor on lr")
    decay_every: Positive = Field(default=20, description="step schedule: epochs between factors")
    one_cycle: bool = Field(default=False, description="warm-up and cosine decay instead of steps")
    ema: float = Field(default=0.9999, ge=0, lt=1)
    shift: int = Field(default=0, ge=0, description="augmentation: random shift by at most so many pixels")
    flip: bool = Field(default=False, description="augmentation: random mirroring")
