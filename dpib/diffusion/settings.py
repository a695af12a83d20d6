"""Keys of the diffusion recipes; the methods of the family differ in their values alone."""

from typing import Literal, Self

from pydantic import Field, model_validator

from dpib.diffusion.loss import LossSettings
from dpib.diffusion.sampler import SamplerSettings
from dpib.nn.denoiser import DenoiserSettings
from dpib.privacy.per_record.base import LEAST_CLIP
from dpib.section import Positive, Section


class FitSettings(Section):
    """How long and how fast to train; give either steps or epochs."""

    steps: Positive | None = None
    epochs: Positive | None = None
    batch: Positive = Field(description="records per step; in private training the expected number")
    lr: float = Field(gt=0)
    decay: Literal["cosine"] | None = Field(default=None, description="how lr falls to 0; none: it stays")
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the weights' moving average")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give one of steps and epochs, and set the other to none")
        return self

    def count(self, n: int) -> int:
        """Return the number of steps on n records: an epoch has ceil(n / batch)."""
        return self.steps if self.steps is not None else (self.epochs or 0) * -(-n // self.batch)


class PublicSettings(FitSettings):
    """Keys of `pretrain.*`."""

    cond: bool = Field(default=True, description="learn the public labels; false: all count as no class")
    flip: bool = Field(default=False, description="mirror every other image")


class PrivateSettings(FitSettings):
    """Keys of `train.*`."""

    clip: float = Field(ge=LEAST_CLIP, description="largest norm that one record's gradient keeps")
    multiplicity: Positive = Field(description="noise draws per record, averaged before the clip")
    noise_multiplier: float | None = Field(default=None, gt=0, description="none: calibrated to epsilon")
    cap: Positive | None = Field(default=None, description="most records in a step; none: no cap")
    tune: list[str] | None = Field(default=None, description="patterns of parameter names to train; none: all")
    strategy: Literal["auto", "loop", "vmap", "grouped", "hooks"] = Field(
        default="auto", description="how per-record gradients are computed; changes speed alone"
    )
    physical: Positive | None = Field(default=None, description="records at a time; none: what fits the memory")
    splits: Positive | None = Field(default=None, description="or pieces that every batch is cut into")


class DiffusionSettings(Section):
    """What the recipe of a diffusion method says."""

    pretraining: Literal["optional", "required"] = Field(
        default="optional", description="required: no training without public images, or something to start from"
    )
    network: DenoiserSettings
    loss: LossSettings
    pretrain: PublicSettings
    train: PrivateSettings
    sampler: SamplerSettings
