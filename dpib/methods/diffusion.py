"""Diffusion methods: one denoiser, one loss, one loop; what differs between the methods is their recipe.

- DPDM: no public images (Dockhorn, Cao, Vahdat, Kreis: Differentially Private Diffusion Models, TMLR 2023).
- PDP-Diffusion: the same after pretraining on public images (Ghalebikesabi et al. 2023, arXiv:2302.13861).
- DP-LDM-SD: the same, but only the layers that `train.tune` names are trained privately (DPImageBench 2025).
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor, nn

from dpib import seeding
from dpib.checkpoint import State
from dpib.diffusion.loss import DenoisingLoss
from dpib.diffusion.public import PublicBatches
from dpib.diffusion.sampler import SamplerSettings, sample
from dpib.diffusion.settings import DiffusionSettings, FitSettings
from dpib.errors import UserError
from dpib.images import Images, from_unit
from dpib.nn.denoiser import Denoiser
from dpib.nn.ema import MovingAverage
from dpib.privacy.events import Charge
from dpib.privacy.gradients import Gradients, GradientSpec
from dpib.privacy.per_record.base import trainable
from dpib.privacy.vault import Vault
from dpib.section import Section
from dpib.synthesizer import Log, Task
from dpib.training import constant, cosine, done, fit, shared

_CHARGE = "dp-sgd"
_PREVIEW = SamplerSettings(name="ddim", steps=18)


class Diffusion:
    """A class-conditional diffusion model in pixel space, trained by exact or by private gradients.

    The moving average of the weights is what generates, what is saved, and what a later stage starts from.
    """

    Settings: ClassVar[type[Section]] = DiffusionSettings

    def __init__(self, settings: DiffusionSettings, task: Task) -> None:
        self.settings, self.task = settings, task
        with seeding.seeded(task.seed, "denoiser"):
            self.model = Denoiser(settings.network, task.shape, task.classes).to(task.device)
        self.average = MovingAverage(self.model, settings.train.ema)
        self.loaded = False

    def plan(self, n: int) -> tuple[Charge, ...]:
        """Return one DP-SGD: Poisson rate = expected batch / n, with as many steps as the epochs have batches.

        Raises:
            UserError: when the batch is larger than the data.
        """
        how = self.settings.train
        if how.batch > n:
            raise UserError(f"train.batch={how.batch} exceeds the {n} training images: lower it")
        label = f"DP-SGD: noised sums of per-image gradients clipped to {how.clip:g}, one per step"
        rate, count = how.batch / n, how.count(n)
        return (Charge(_CHARGE, "gaussian", label, sigma=how.noise_multiplier, rate=rate, count=count, cap=how.cap),)

    def pretrain(self, public: Images, log: Log) -> None:
        """Train on public images by exact gradients, the batch shared out among the processes.

        Raises:
            UserError: when there are fewer images than a batch, or classes without an embedding.
        """
        how, world = self.settings.pretrain, self.task.world
        batches = PublicBatches(public, how, self.model.null, self.task.seed, world)
        loss = DenoisingLoss(self.settings.loss, self.model.null)
        self.average = MovingAverage(self.model, how.ema)

        def share(step: int) -> Tensor:
            rows = [row.to(self.task.device) for row in batches.rows(loss, step)]
            return loss.per_row(self.model, *rows).sum() / how.batch

        steps = how.count(len(public))
        gradients = shared(share, self.model, done(log, "pretrain"), world)
        self._fit(gradients, how, steps, "pretrain", log)

    def train(self, vault: Vault, log: Log) -> None:
        """Train by the vault's gradients, at the charge that `plan` named."""
        how = self.settings.train
        if how.tune is not None and not self.loaded:
            raise UserError(
                "train.tune leaves most of the network as pretraining made it, and there was none: give "
                "-P public=<data set>, -P pretrain_run=<run id> or -P checkpoint=<file>"
            )
        tune(self.model, how.tune)
        spec = GradientSpec(
            clip=how.clip,
            seed=seeding.derive(self.task.seed, "train", "rows"),
            strategy=how.strategy,
            physical=how.physical,
            splits=how.splits,
            start=done(log, "train"),
            classes=self.task.classes,
        )
        loss = DenoisingLoss(self.settings.loss, self.model.null, how.multiplicity)
        self.average = MovingAverage(self.model, how.ema)
        self._fit(vault.gradients(_CHARGE, loss, self.model, spec), how, how.count(vault.n), "train", log)
        self.model.requires_grad_(True)

    def _fit(self, gradients: Iterator[Gradients], how: FitSettings, steps: int, name: str, log: Log) -> None:
        """Train the model, then let it and its average agree."""
        fit(
            self.model.train(),
            gradients,
            torch.optim.Adam(trainable(self.model), lr=how.lr),
            steps=steps,
            lr=cosine(how.lr, steps) if how.decay else constant(how.lr),
            streams={},
            log=log,
            name=name,
            preview=(lambda: self._preview(name)) if self.task.world.leads else None,
            average=self.average,
        )
        self.model.load_state_dict(self.average.network.state_dict())

    def _preview(self, name: str) -> Images:
        labels = torch.arange(min(self.task.classes, 10)).repeat_interleave(10)
        stream = seeding.generator(self.task.seed, name, "preview")
        return self._draw(labels, _PREVIEW, stream)

    def generate(self, labels: Tensor, generator: torch.Generator) -> Images:
        """Draw one image per label, from the moving average."""
        return self._draw(labels, self.settings.sampler, generator)

    def _draw(self, labels: Tensor, settings: SamplerSettings, generator: torch.Generator) -> Images:
        network, device = self.average.network, self.task.device
        x = sample(network, labels.to(device), self.task.shape, settings, self.model.null, generator)
        return Images(from_unit(x / 2 + 0.5).cpu(), labels)

    def class_proportions(self) -> Tensor | None:
        """Return None: DP-SGD releases no class proportions."""
        return None

    def state_dict(self) -> State:
        """Return the averaged weights."""
        return {"denoiser": self.average.network.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned, into the model and its average.

        Raises:
            UserError: when it comes from a network of another shape.
        """
        weights = state.get("denoiser", {})
        own = self.model.state_dict()
        for name in (*weights, *own):
            found, needed = (list(t[name].shape) if name in t else None for t in (weights, own))
            if found != needed:
                raise UserError(
                    f"the checkpoint's network is another one ({name} is {found}, here {needed}): give the same "
                    "network.* keys, image shape and network.label_dim as it was made with"
                )
        self.model.load_state_dict(weights)
        self.average.network.load_state_dict(weights)
        self.loaded = True


def tune(model: nn.Module, patterns: list[str] | None) -> None:
    """Leave only those parameters trainable whose name matches a pattern (shell style); none: all.

    Raises:
        UserError: when a pattern matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns or ():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"train.tune: {pattern!r} matches no parameter of the network, e.g. {names[0]!r}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(patterns is None or any(fnmatchcase(name, p) for p in patterns))
