"""DPGAN: a critic trained by DP-SGD, and a generator that learns from the critic alone.

Xie et al. 2018, arXiv:1802.06739, with the hinge loss and the networks of DPImageBench (Gong et al. 2025). The critic
is all that sees sensitive images, through noised gradients; the generator, its average and what it draws are
post-processing.
"""

import copy
from collections.abc import Iterator, Mapping
from itertools import count
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dpib import seeding
from dpib.checkpoint import State
from dpib.distributed import unflatten
from dpib.dp_sgd import CHARGE, DpSgdSettings, LengthSettings
from dpib.draws import Draws
from dpib.images import Images, from_unit, to_unit
from dpib.nn.critics import Critic, CriticSettings
from dpib.nn.ema import MovingAverage
from dpib.nn.generators import GeneratorSettings, build
from dpib.privacy.events import Charge
from dpib.privacy.gradients import Gradients
from dpib.privacy.vault import Vault
from dpib.section import Positive, Section
from dpib.synthesizer import Log, Task
from dpib.training import constant, done, exact, fit

_BETAS = 0.0, 0.999
_AT_ONCE = 128  # images that the generator draws in one pass: what its batch norm sees
_SETTLING = 32  # such passes after which the statistics of batch norm are trusted


class LearnSettings(LengthSettings):
    """Keys of `pretrain.*`."""

    cond: bool = Field(default=True, description="learn the labels; false: every public image gets one by chance")


class AdversarySettings(Section):
    """Keys of `adversary.*`: how the generator learns from the critic."""

    lr: float = Field(gt=0)
    batch: Positive = Field(description="images of a step")
    every: Positive = Field(description="steps of the critic before one of the generator")
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the generator's moving average")


class GanSettings(Section):
    """What the recipe of a GAN says."""

    network: GeneratorSettings
    critic: CriticSettings
    adversary: AdversarySettings
    pretrain: LearnSettings
    train: DpSgdSettings


class PairLoss:
    """The hinge loss of a record and of one generated image that it brings along: both are clipped as one.

    Without the record there is no such image either, so one record moves a sum by at most the clip.
    """

    multiplicity = 1

    def __init__(self, generator: nn.Module, latent: int, classes: int) -> None:
        self._generator, self._latent, self._classes = generator, latent, classes

    @torch.no_grad()
    def rows(self, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        """Return every record beside a generated image of a random label: [b, 1, 2, ...] and labels [b, 1, 2]."""
        labels = (draws.uniform() * self._classes).long().clamp(max=self._classes - 1)
        noise = draws.normal(self._latent)
        self._generator.eval()  # batch statistics would mix records
        drawn = [self._generator(z, c) for z, c in zip(noise.split(_AT_ONCE), labels.split(_AT_ONCE), strict=True)]
        images = torch.stack([to_unit(x), torch.cat(drawn)], 1)
        return (2 * images - 1)[:, None], torch.stack([y, labels], 1)[:, None]

    def per_row(self, model: nn.Module, *rows: Tensor) -> Tensor:
        """Return relu(1 - D(real)) + relu(1 + D(generated)) of every pair: float [rows]."""
        images, labels = rows
        real, drawn = model(images.flatten(0, 1), labels.flatten()).view(-1, 2).unbind(1)
        return F.relu(1 - real) + F.relu(1 + drawn)


class Gan:
    """A class-conditional hinge GAN. The generator's moving average, with batch statistics of its own, generates."""

    Settings: ClassVar[type[Section]] = GanSettings
    reads: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "pretrain": ("network", "critic", "adversary", "pretrain"),
        "train": ("network", "critic", "adversary", "train"),
    }

    def __init__(self, settings: GanSettings, task: Task) -> None:
        self.settings, self.task = settings, task
        with seeding.seeded(task.seed, "gan"):
            self.generator = build(settings.network, task.shape, task.classes).to(task.device)
            self.critic = Critic(task.shape, task.classes, settings.critic).to(task.device)
        self.average = MovingAverage(self.generator, settings.adversary.ema)
        self.loss = PairLoss(self.generator, self.generator.latent, task.classes)

    def plan(self, n: int) -> tuple[Charge, ...]:
        """Return the DP-SGD of the critic."""
        return (self.settings.train.charge(n),)

    def query(self, vault: Vault, log: Log) -> None:
        """Do nothing: the plan has no query."""

    def pretrain(self, public: Images | None, log: Log) -> None:
        """Learn from public images by exact gradients; their labels are folded onto the task's."""
        assert public is not None
        how, seed = self.settings.pretrain, seeding.derive(self.task.seed, "pretrain", "rows")
        stream = seeding.generator(self.task.seed, "pretrain", "batches")
        batch = min(how.batch, len(public))
        step = done(log, "pretrain")

        def value() -> Tensor:
            nonlocal step
            index = torch.randint(len(public), (batch,), generator=stream)
            y = public.y[index] % self.task.classes
            if not how.cond:
                y = torch.randint(self.task.classes, (batch,), generator=stream)
            device = self.task.device
            draws = Draws(seeding.derive(seed, str(step)), torch.arange(batch, device=device))
            step += 1
            images, labels = self.loss.rows(public.x[index].to(device), y.to(device), draws)
            return self.loss.per_row(self.critic, images.flatten(0, 1), labels.flatten(0, 1)).mean()

        self._fit(exact(value, self.critic), how, how.count(len(public)), "pretrain", log, {"batches": stream})

    def train(self, vault: Vault, log: Log) -> None:
        """Train the critic by the vault's gradients, and the generator by the critic."""
        how = self.settings.train
        spec = how.spec(self.task, done(log, "train"))
        gradients = vault.gradients(CHARGE, self.loss, self.critic, spec)
        self._fit(gradients, how, how.count(vault.n), "train", log, {})

    def _fit(
        self,
        gradients: Iterator[Gradients],
        how: LengthSettings,
        steps: int,
        name: str,
        log: Log,
        streams: dict[str, torch.Generator],
    ) -> None:
        """Train both networks, the generator after every few steps of the critic; then settle the average."""
        optimizer = torch.optim.Adam(self.generator.parameters(), lr=self.settings.adversary.lr, betas=_BETAS)
        fit(
            self.critic.train(),
            self._alternating(gradients, optimizer, name, done(log, name)),
            torch.optim.Adam(self.critic.parameters(), lr=how.lr, betas=_BETAS),
            steps=steps,
            lr=constant(how.lr),
            streams=streams,
            log=log,
            name=name,
            preview=(lambda: self._preview(name)) if self.task.world.leads else None,
            others={"generator": self.generator, "generator-optimizer": optimizer, "generator-average": self.average},
        )
        self._move(optimizer, name, steps)
        self.average.network = self._settled(name)

    def _alternating(
        self, gradients: Iterator[Gradients], optimizer: torch.optim.Optimizer, name: str, start: int
    ) -> Iterator[Gradients]:
        """Yield the critic's gradients; before every few of them the generator follows the critic as it has become."""
        for step in count(start):
            if step and step % self.settings.adversary.every == 0:
                self._move(optimizer, name, step)
            yield next(gradients)

    def _move(self, optimizer: torch.optim.Optimizer, name: str, step: int) -> None:
        """Make a step of the generator towards what the critic takes for real, the same on every process."""
        how, parameters = self.settings.adversary, list(self.generator.parameters())
        stream = seeding.generator(self.task.seed, name, "latents", str(step))
        labels = torch.randint(self.task.classes, (how.batch,), generator=stream)
        noise = torch.randn(how.batch, self.generator.latent, generator=stream)
        total = torch.zeros(sum(p.numel() for p in parameters), device=self.task.device)
        self.generator.train()
        for z, y in zip(noise.split(_AT_ONCE), labels.split(_AT_ONCE), strict=True):
            y = y.to(self.task.device)
            scores = self.critic(2 * self.generator(z.to(self.task.device), y) - 1, y)
            parts = torch.autograd.grad(-scores.sum() / how.batch, parameters)
            total += torch.cat([part.flatten() for part in parts])
        for parameter, gradient in zip(
            parameters, unflatten(self.task.world.broadcast(total), parameters), strict=True
        ):
            parameter.grad = gradient
        optimizer.step()
        self.average.update(self.generator)

    @torch.no_grad()
    def _settled(self, name: str) -> nn.Module:
        """Return a copy of the averaged generator, its batch statistics those of what it draws itself."""
        network = copy.deepcopy(self.average.network)
        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all passes
            norm.train()
        stream = seeding.generator(self.task.seed, name, "settling")
        for _ in range(_SETTLING):
            labels = torch.randint(self.task.classes, (_AT_ONCE,), generator=stream)
            noise = torch.randn(_AT_ONCE, self.generator.latent, generator=stream)
            network(noise.to(self.task.device), labels.to(self.task.device))
        return network.eval()

    def _preview(self, name: str) -> Images:
        labels = torch.arange(min(self.task.classes, 10)).repeat_interleave(10)
        return self._draw(self._settled(name), labels, seeding.generator(self.task.seed, name, "preview"))

    def generate(self, labels: Tensor, generator: torch.Generator) -> Images:
        """Draw one image per label, from the moving average."""
        return self._draw(self.average.network, labels, generator)

    @torch.no_grad()
    def _draw(self, network: nn.Module, labels: Tensor, generator: torch.Generator) -> Images:
        noise = torch.randn(len(labels), self.generator.latent, generator=generator)
        return Images(from_unit(network(noise.to(self.task.device), labels.to(self.task.device))).cpu(), labels)

    def class_proportions(self) -> Tensor | None:
        """Return None: DP-SGD releases no class proportions."""
        return None

    def state_dict(self) -> State:
        """Return both networks, for a training that goes on from here, and the average that generates."""
        networks = {"generator": self.generator, "critic": self.critic, "average": self.average.network}
        return {name: network.state_dict() for name, network in networks.items()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self.generator.load_state_dict(state["generator"])
        self.critic.load_state_dict(state["critic"])
        self.average.network.load_state_dict(state["average"])
