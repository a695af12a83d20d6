"""What a recipe says of a training by DP-SGD, as every method that has one reads it."""

from typing import Literal, Self

from pydantic import Field, model_validator

from dpib import seeding
from dpib.errors import UserError
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec
from dpib.privacy.per_record.base import LEAST_CLIP
from dpib.section import Positive, Section
from dpib.synthesizer import Task

CHARGE = "dp-sgd"
"""The charge that every such training makes."""


class LengthSettings(Section):
    """How long a training is, and the size of its steps."""

    steps: Positive | None = None
    epochs: Positive | None = None
    batch: Positive = Field(description="records per step; in private training the expected number")
    lr: float = Field(gt=0)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give one of steps and epochs, and set the other to none")
        return self

    def count(self, n: int) -> int:
        """Return the number of steps on n records: an epoch has ceil(n / batch)."""
        return self.steps if self.steps is not None else (self.epochs or 0) * -(-n // self.batch)


class DpSgdSettings(LengthSettings):
    """How private gradients are taken; only the length, the batch, the noise and the cap change what they cost."""

    clip: float = Field(ge=LEAST_CLIP, description="largest norm that one record's gradient keeps")
    noise_multiplier: float | None = Field(default=None, gt=0, description="none: calibrated to epsilon")
    cap: Positive | None = Field(default=None, description="most records in a step; none: no cap")
    strategy: Literal["auto", "loop", "vmap", "grouped", "joined", "hooks"] = Field(
        default="auto", description="how per-record gradients are computed; changes speed alone"
    )
    physical: Positive | None = Field(default=None, description="records at a time; none: what fits the memory")
    splits: Positive | None = Field(default=None, description="or pieces that every batch is cut into")

    def charge(self, n: int) -> Charge:
        """Return the charge on n records: its Poisson rate is the expected batch / n.

        Raises:
            UserError: when the batch is larger than the data.
        """
        if self.batch > n:
            raise UserError(f"train.batch={self.batch} exceeds the {n} training images: lower it")
        label = f"DP-SGD: noised sums of per-image gradients clipped to {self.clip:g}, one per step"
        rate, count = self.batch / n, self.count(n)
        return Charge(CHARGE, "gaussian", label, sigma=self.noise_multiplier, rate=rate, count=count, cap=self.cap)

    def spec(self, task: Task, start: int) -> GradientSpec:
        """Return how the gradients are taken from step `start` on."""
        return GradientSpec(
            clip=self.clip,
            seed=seeding.derive(task.seed, "train", "rows"),
            strategy=self.strategy,
            physical=self.physical,
            splits=self.splits,
            start=start,
            classes=task.classes,
            precision=task.precision,
        )
