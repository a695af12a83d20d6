"""Lesson `frequency`: images of a generator that was fitted to one release of random features.

C. Gong, K. Li, Z. Lin, T. Wang: From easy to hard++ (FETA-Pro), arXiv:2601.06368; the release is
that of DP-MERF (Harder, Adamczewski, Park: AISTATS 2021).
"""

from typing import Annotated, ClassVar

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny

from dpib import registry, seeding
from dpib.checkpoint import State
from dpib.diffusion.lessons.lesson import LessonSettings
from dpib.images import Images
from dpib.kernels.embedding import Embedding, embedding
from dpib.kernels.features import FeatureSettings
from dpib.methods.embedding import EmbeddingGenerator, FitSettings
from dpib.nn.generators import GeneratorSettings
from dpib.privacy.events import Charge
from dpib.privacy.vault import Vault
from dpib.section import Positive
from dpib.synthesizer import Log, Task

_BATCH = 500


class FrequencySettings(LessonSettings):
    """Keys of this lesson."""

    features: Annotated[SerializeAsAny[FeatureSettings], BeforeValidator(registry.chosen("features"))]
    network: GeneratorSettings
    generator: FitSettings
    images: Positive = Field(description="how many images the generator draws for the lesson")
    noise_multiplier: float | None = Field(default=None, gt=0, description="none: calibrated to epsilon")


class FrequencyLesson:
    """The mean embedding of every class, released once; a generator fitted to it draws what is learnt from."""

    Settings: ClassVar[type[LessonSettings]] = FrequencySettings
    reads_public: ClassVar[bool] = False

    def __init__(self, settings: FrequencySettings, task: Task, name: str) -> None:
        self.settings, self.task, self.name = settings, task, name
        EmbeddingGenerator(settings.network, task)  # refuses now what it cannot draw

    def charges(self, n: int) -> tuple[Charge, ...]:
        """Return the one release."""
        label = "sum of random features of every image, by class, with the class counts"
        return (Charge(self.name, "gaussian", label, sigma=self.settings.noise_multiplier, stage="query"),)

    def query(self, vault: Vault, log: Log) -> State:
        """Release the sum: float64 [classes, features + 1]."""
        return {"total": vault.release_sum(self.name, self._features())}

    def images(self, released: State, public: Images | None, log: Log) -> Images:
        """Fit the generator, and return as many of its images of each class."""
        how, features = self.settings, self._features()
        generator = EmbeddingGenerator(how.network, self.task)
        means, _ = features.class_means(released["total"])
        generator.fit(features, means, how.generator, f"{self.name}-generator", log.part("generator"))
        labels = torch.arange(how.images) % self.task.classes
        batches = [
            generator.draw(batch, seeding.generator(self.task.seed, self.name, "images", number)).x
            for number, batch in enumerate(labels.split(_BATCH))
        ]
        # Where kernels are not deterministic, every process would have images of its own.
        return Images(self.task.world.broadcast(torch.cat(batches).to(self.task.device)).cpu(), labels)

    def _features(self) -> Embedding:
        stream = seeding.generator(self.task.seed, self.name, "frequencies")
        shape, classes, device = self.task.shape, self.task.classes, self.task.device
        return embedding(self.settings.features, shape, classes, stream, device)
