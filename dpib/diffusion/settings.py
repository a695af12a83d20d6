"""Keys of the diffusion recipes; the methods of the family differ in their values alone."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from dpib import registry
from dpib.diffusion.lessons.lesson import LessonSettings
from dpib.diffusion.loss import LossSettings
from dpib.diffusion.sampler import SamplerSettings
from dpib.dp_sgd import DpSgdSettings, LengthSettings
from dpib.nn.denoiser import DenoiserSettings
from dpib.section import Positive, Section, checked


class FitSettings(LengthSettings):
    """How long and how fast to train; give either steps or epochs."""

    decay: Literal["cosine"] | None = Field(default=None, description="how lr falls to 0; none: it stays")
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the weights' moving average")


class LearnSettings(FitSettings):
    """Keys of `pretrain.*`, and of a lesson's `fit`."""

    cond: bool = Field(default=True, description="learn the labels; false: all count as no class")
    flip: bool = Field(default=False, description="mirror every other image")
    augment: Positive | None = Field(default=None, description="random changes of an image (RandAugment); none: as is")


class PrivateSettings(DpSgdSettings, FitSettings):
    """Keys of `train.*`."""

    multiplicity: Positive = Field(description="noise draws per record, averaged before the clip")
    tune: list[str] | None = Field(default=None, description="patterns of parameter names to train; none: all")


class DiffusionSettings(Section):
    """What the recipe of a diffusion method says."""

    pretraining: Literal["optional", "required"] = Field(
        default="optional", description="required: no training without public images, or something to start from"
    )
    network: DenoiserSettings
    loss: LossSettings
    lessons: list[Annotated[SerializeAsAny[LessonSettings], BeforeValidator(registry.chosen("lesson"))]] = Field(
        default=[], description="what is learnt from before the first private gradient, in this order"
    )
    pretrain: LearnSettings
    train: PrivateSettings
    sampler: SamplerSettings

    @model_validator(mode="after")
    def _lessons_fit(self) -> Self:
        for lesson in self.lessons:
            self.fit_of(lesson)
        return self

    def fit_of(self, lesson: LessonSettings) -> LearnSettings:
        """Return how a lesson is learnt: as `pretrain` says, but for what its own `fit` does.

        Raises:
            ValueError: when it is no such settings.
        """
        tree = self.pretrain.model_dump()
        for length, other in (("steps", "epochs"), ("epochs", "steps")):
            if length in lesson.fit and other not in lesson.fit:
                tree[other] = None
        found = checked(LearnSettings, {**tree, **lesson.fit})
        if isinstance(found, list):
            raise ValueError(f"fit of lesson {lesson.kind}: {'; '.join(found)}")
        return found
