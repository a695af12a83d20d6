"""A conditional generator fitted to class-wise mean embeddings: post-processing of what was released of them."""

from collections.abc import Iterator
from itertools import repeat

import torch
from pydantic import Field
from torch import Tensor

from dpib import seeding
from dpib.checkpoint import State
from dpib.images import Images, from_unit
from dpib.kernels.embedding import Embedding
from dpib.kernels.mmd import squared_mmd
from dpib.nn.generators import GeneratorSettings, build
from dpib.precision import passes
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


class EmbeddingGenerator:
    """Draws images whose features have the mean embeddings that it was fitted to.

    Args:
        settings: which network.
        task: shape and classes of the images, and the seed of the initial weights.
    """

    def __init__(self, settings: GeneratorSettings, task: Task) -> None:
        self.task = task
        with seeding.seeded(task.seed, "generator"):
            self.network = build(settings, task.shape, task.classes).to(task.device)

    def fit(self, features: Embedding, means: Tensor | Iterator[Tensor], how: FitSettings, name: str, log: Log) -> None:
        """Fit the features of generated images to `means`, float [classes, features], or to one after the other.

        An iterator begins with those of the first step that the log's snapshot does not hold.
        """
        stream = seeding.generator(self.task.seed, name, "latents")
        targets = repeat(self._placed(means)) if isinstance(means, Tensor) else map(self._placed, means)
        self.network.train()

        def loss() -> Tensor:
            labels = class_batch(self.task.classes, how.batch, stream).to(self.task.device)
            noise = torch.randn(len(labels), self.network.latent, generator=stream).to(self.task.device)
            with passes(self.task.lower, self.task.device):
                images = self.network(noise, labels)
            return squared_mmd(next(targets), features.rows(images.float()), labels)

        fit(
            self.network,
            exact(loss, self.network),
            torch.optim.Adam(self.network.parameters(), lr=how.lr),
            steps=how.steps,
            lr=steps_of(how.lr, how.decay, how.steps) if how.decay else cosine(how.lr, how.steps),
            streams={"latents": stream},
            log=log,
            name=name,
            preview=lambda: self._preview(name),
        )

    def _placed(self, means: Tensor) -> Tensor:
        return means.to(self.task.device, torch.float32)

    def _preview(self, name: str) -> Images:
        labels = torch.arange(self.task.classes).repeat(10)[:100].sort().values
        images = self.draw(labels, seeding.generator(self.task.seed, name, "preview"))
        self.network.train()
        return images

    @torch.no_grad()
    def draw(self, labels: Tensor, generator: torch.Generator) -> Images:
        """Draw one image per label."""
        self.network.eval()
        noise = torch.randn(len(labels), self.network.latent, generator=generator)
        x = self.network(noise.to(self.task.device), labels.to(self.task.device))
        return Images(from_unit(x).cpu(), labels)

    def state_dict(self) -> State:
        """Return the network's weights."""
        return dict(self.network.state_dict())

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.network.load_state_dict(state)


def class_batch(classes: int, batch: int, stream: torch.Generator) -> Tensor:
    """Return labels of a batch in which every class that occurs does so equally often, and at least twice.

    With too many classes for the batch a fresh random choice of them is taken.
    """
    chosen = min(classes, max(1, batch // 2))
    present = torch.randperm(classes, generator=stream)[:chosen]
    return present.repeat(max(2, batch // chosen))
