"""Mean-embedding methods: release class-wise means of features, and fit a generator to them.

- DP-MERF: random Fourier features (Harder, Adamczewski, Park: DP-MERF, AISTATS 2021).
- DP-NTK: gradients of a random network (Yang, Adamczewski, Sutherland, Li, Park 2023, arXiv:2303.01687).
- DP-Kernel: Fourier features of several bandwidths (Jiang, Sun, Yu: Functional Renyi differential privacy for
  generative modeling, NeurIPS 2023).
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor

from dpib import registry, seeding
from dpib.checkpoint import State
from dpib.errors import UserError
from dpib.images import Images
from dpib.kernels.embedding import Embedding, embedding
from dpib.kernels.features import FeatureSettings
from dpib.methods.embedding import EmbeddingGenerator, FitSettings
from dpib.methods.releases import StepReleases
from dpib.nn.generators import GeneratorSettings
from dpib.privacy.events import Charge
from dpib.privacy.vault import Vault
from dpib.section import Positive, Section
from dpib.synthesizer import Log, Task
from dpib.training import done

_CHARGE = "embedding"


class TrainSettings(FitSettings):
    """Keys of `train.*`."""

    noise_multiplier: float | None = Field(default=None, gt=0, description="none: calibrated to epsilon")
    release: Literal["one_shot", "per_step"] = Field(
        default="one_shot", description="the embedding of all images once, or that of a random sample for every step"
    )
    records: Positive = Field(default=60, description="per_step: expected images in a sample")


class KernelSettings(Section):
    """What the recipe of a mean-embedding method says."""

    features: Annotated[SerializeAsAny[FeatureSettings], BeforeValidator(registry.chosen("features"))]
    network: GeneratorSettings
    pretrain: FitSettings
    train: TrainSettings


class MeanEmbedding:
    """Gaussian releases of sum_i e_{y_i} (x) [phi(x_i), w], one or many; the generator never reaches the data.

    The appended coordinate w counts the classes within the same release: its share of the sensitivity is
    part of the unit norm, and it makes the fitted embedding one of p(x|y), whatever the class balance.
    """

    Settings: ClassVar[type[Section]] = KernelSettings
    reads: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "pretrain": ("features", "network", "pretrain"),
        "train": ("features", "network", "train"),
    }

    def __init__(self, settings: KernelSettings, task: Task) -> None:
        self.settings, self.task = settings, task
        self.generator = EmbeddingGenerator(settings.network, task)
        self.proportions: Tensor | None = None

    def plan(self, n: int) -> tuple[Charge, ...]:
        """Return the one release, or those of all steps; sigma is calibrated unless the recipe fixes it.

        Raises:
            UserError: when a sample is to be larger than the data.
        """
        how = self.settings.train
        if how.release == "one_shot":
            label = "sum of random features of every image, by class, with the class counts"
            return (Charge(_CHARGE, "gaussian", label, sigma=how.noise_multiplier, counts=True),)
        if how.records > n:
            raise UserError(f"train.records={how.records} exceeds the {n} training images: lower it")
        label = "sums of random features of a random sample's images, by class, with the class counts, one per step"
        rate, count = how.records / n, how.steps
        return (Charge(_CHARGE, "gaussian", label, sigma=how.noise_multiplier, rate=rate, count=count, counts=True),)

    def query(self, vault: Vault, log: Log) -> None:
        """Do nothing: the plan has no query."""

    def pretrain(self, public: Images | None, log: Log) -> None:
        """Fit the generator to the exact embedding of public images; their labels are folded onto the task's."""
        assert public is not None
        folded = Images(public.x, public.y % self.task.classes)
        features = self._features("pretrain")
        total = sum(features.weighted_sum(c.x, c.y, torch.ones(len(c))).double() for c in folded.chunks(1000))
        means, _ = features.class_means(torch.as_tensor(total))
        self.generator.fit(features, means, self.settings.pretrain, "pretrain", log)

    def train(self, vault: Vault, log: Log) -> None:
        """Release the embedding and fit the generator to it, or to one release after the other."""
        features, how = self._features("train"), self.settings.train
        if how.release == "one_shot":
            means, self.proportions = features.class_means(vault.release_sum(_CHARGE, features))
            self.generator.fit(features, means, how, "train", log)
            return
        releases = StepReleases(vault, _CHARGE, features, how.records, done(log, "train"))
        self.generator.fit(features, releases.targets(), how, "train", log)
        self.proportions = releases.proportions()

    def _features(self, stage: str) -> Embedding:
        stream = seeding.generator(self.task.seed, stage, "frequencies")
        return embedding(self.settings.features, self.task.shape, self.task.classes, stream, self.task.device)

    def generate(self, labels: Tensor, generator: torch.Generator) -> Images:
        """Draw one image per label."""
        return self.generator.draw(labels, generator)

    def class_proportions(self) -> Tensor | None:
        """Return the noised class proportions of the sensitive images, float64 [classes]."""
        return self.proportions

    def state_dict(self) -> State:
        """Return the generator and the class proportions."""
        return {"generator": self.generator.state_dict(), "proportions": self.proportions}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.generator.load_state_dict(state["generator"])
        self.proportions = state["proportions"]
