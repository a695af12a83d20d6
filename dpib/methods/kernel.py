"""Mean-embedding methods: release the class-wise mean embedding once, then fit a generator to it.

DP-MERF (Harder, Adamczewski, Park: DP-MERF, AISTATS 2021) is this with random Fourier features.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dpib import seeding
from dpib.checkpoint import State
from dpib.images import Images, from_unit
from dpib.kernels.fourier import FourierFeatures, FourierSettings
from dpib.kernels.mmd import squared_mmd
from dpib.nn.generators import GeneratorSettings, build
from dpib.privacy.events import Charge
from dpib.privacy.vault import Vault
from dpib.section import Positive, Section
from dpib.synthesizer import Log, Task
from dpib.training import cosine, exact, fit, steps_of


class FitSettings(Section):
    """How the generator is fitted to an embedding."""

    steps: Positive
    batch: Positive
    lr: float = Field(gt=0)
    decay: float | None = Field(
        default=None, gt=0, le=1, description="factor on lr after every fifth of the steps; none: cosine to 0"
    )


class TrainSettings(FitSettings):
    """Keys of `train.*`."""

    noise_multiplier: float | None = Field(default=None, gt=0, description="none: calibrated to epsilon")


class KernelSettings(Section):
    """What the recipe of a mean-embedding method says."""

    features: FourierSettings
    network: GeneratorSettings
    pretrain: FitSettings
    train: TrainSettings


class MeanEmbedding:
    """One Gaussian release of sum_i e_{y_i} (x) [phi(x_i), w]; the generator never reaches the data.

    The appended coordinate w counts the classes within the same release: its share of the sensitivity is
    part of the unit norm, and it makes the fitted embedding one of p(x|y), whatever the class balance.
    """

    Settings: ClassVar[type[Section]] = KernelSettings

    def __init__(self, settings: KernelSettings, task: Task) -> None:
        self.settings = settings
        self.task = task
        with seeding.seeded(task.seed, "generator"):
            self.generator = build(settings.network, task.shape, task.classes).to(task.device)
        self.proportions: Tensor | None = None

    def plan(self, n: int) -> tuple[Charge, ...]:
        """Return the one release; its sigma is calibrated unless the recipe fixes it."""
        label = "sum of random features of every image, by class, with the class counts"
        return (Charge("embedding", "gaussian", label, sigma=self.settings.train.noise_multiplier),)

    def pretrain(self, public: Images, log: Log) -> None:
        """Fit the generator to the exact embedding of public images; their labels are folded onto the task's."""
        folded = Images(public.x, public.y % self.task.classes)
        features = self._features("pretrain")
        total = sum(features.weighted_sum(c.x, c.y, torch.ones(len(c))).double() for c in folded.chunks(1000))
        means, _ = features.class_means(torch.as_tensor(total))
        self._fit(features, means, self.settings.pretrain, "pretrain", log)

    def train(self, vault: Vault, log: Log) -> None:
        """Release the embedding, then fit the generator to it."""
        features = self._features("train")
        means, self.proportions = features.class_means(vault.release_sum("embedding", features))
        self._fit(features, means, self.settings.train, "train", log)

    def _features(self, stage: str) -> FourierFeatures:
        stream = seeding.generator(self.task.seed, stage, "frequencies")
        return FourierFeatures(self.task.shape, self.task.classes, self.settings.features, stream, self.task.device)

    def _fit(self, features: FourierFeatures, means: Tensor, how: FitSettings, name: str, log: Log) -> None:
        stream = seeding.generator(self.task.seed, name, "latents")
        means = means.to(self.task.device, torch.float32)
        self.generator.train()

        def loss() -> Tensor:
            labels = class_batch(self.task.classes, how.batch, stream).to(self.task.device)
            noise = torch.randn(len(labels), self.generator.latent, generator=stream).to(self.task.device)
            return squared_mmd(means, features.map(self.generator(noise, labels)), labels)

        fit(
            self.generator,
            exact(loss, self.generator),
            torch.optim.Adam(self.generator.parameters(), lr=how.lr),
            steps=how.steps,
            lr=steps_of(how.lr, how.decay, how.steps) if how.decay else cosine(how.lr, how.steps),
            streams={"latents": stream},
            log=log,
            name=name,
            preview=lambda: self._preview(name),
        )

    def _preview(self, name: str) -> Images:
        labels = torch.arange(self.task.classes).repeat(10)[:100].sort().values
        images = self.generate(labels, seeding.generator(self.task.seed, name, "preview"))
        self.generator.train()
        return images

    @torch.no_grad()
    def generate(self, labels: Tensor, generator: torch.Generator) -> Images:
        """Draw one image per label."""
        self.generator.eval()
        noise = torch.randn(len(labels), self.generator.latent, generator=generator)
        x = self.generator(noise.to(self.task.device), labels.to(self.task.device))
        return Images(from_unit(x).cpu(), labels)

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


def class_batch(classes: int, batch: int, stream: torch.Generator) -> Tensor:
    """Return labels of a batch in which every class that occurs does so equally often, and at least twice.

    With too many classes for the batch a fresh random choice of them is taken.
    """
    chosen = min(classes, max(1, batch // 2))
    present = torch.randperm(classes, generator=stream)[:chosen]
    return present.repeat(max(2, batch // chosen))
