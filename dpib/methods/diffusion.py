"""Diffusion methods: one denoiser, one loss, one loop; what differs between the methods is their recipe.

- DPDM: no lessons (Dockhorn, Cao, Vahdat, Kreis: Differentially Private Diffusion Models, TMLR 2023).
- PDP-Diffusion: lesson `public` (Ghalebikesabi et al. 2023, arXiv:2302.13861).
- DP-LDM-SD: the same, but only the layers that `train.tune` names are trained privately (DPImageBench 2025).
- PrivImage: lesson `selected` (Li et al. 2024, arXiv:2311.12850).
- DP-FETA: lesson `central` (Li et al. 2025, arXiv:2504.01395).
- FETA-Pro: lessons `central` and `frequency` (Gong et al. 2026, arXiv:2601.06368).
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor, nn

from dpib import registry, seeding
from dpib.checkpoint import State
from dpib.diffusion.lessons.lesson import Lesson
from dpib.diffusion.loss import DenoisingLoss
from dpib.diffusion.public import PublicBatches
from dpib.diffusion.sampler import SamplerSettings, sample
from dpib.diffusion.settings import DiffusionSettings, FitSettings, LearnSettings
from dpib.dp_sgd import CHARGE
from dpib.errors import UserError
from dpib.images import Images, from_unit
from dpib.nn.denoiser import Denoiser
from dpib.nn.ema import MovingAverage
from dpib.privacy.events import Charge
from dpib.privacy.gradients import Gradients
from dpib.privacy.per_record.base import trainable
from dpib.privacy.per_record.lowered import Lowered
from dpib.privacy.vault import Vault
from dpib.section import Section
from dpib.synthesizer import Log, Task
from dpib.training import constant, cosine, done, fit, shared

_PREVIEW = SamplerSettings(name="ddim", steps=18)


class Diffusion:
    """A class-conditional diffusion model in pixel space, trained by exact or by private gradients.

    The moving average of the weights is what generates, what is saved, and what a later stage starts from.
    """

    Settings: ClassVar[type[Section]] = DiffusionSettings
    reads: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "query": ("lessons", "-lessons.fit"),
        "pretrain": ("network", "loss", "lessons", "pretrain"),
        "train": ("network", "loss", "train"),
        "generate": ("sampler",),
    }

    def __init__(self, settings: DiffusionSettings, task: Task) -> None:
        self.settings, self.task = settings, task
        self.lessons = curriculum(settings, task)
        self.released: dict[str, State] = {}
        with seeding.seeded(task.seed, "denoiser"):
            self.model = Denoiser(settings.network, task.shape, task.classes).to(task.device)
        self.average = MovingAverage(self.model, settings.train.ema)
        self.loaded = False

    def plan(self, n: int) -> tuple[Charge, ...]:
        """Return the lessons' charges, and one DP-SGD.

        Its Poisson rate is the expected batch / n, and it has as many steps as the epochs have batches.

        Raises:
            UserError: when a batch is larger than the data.
        """
        return (
            *(charge for lesson in self.lessons.values() for charge in lesson.charges(n)),
            self.settings.train.charge(n),
        )

    def query(self, vault: Vault, log: Log) -> None:
        """Make the lessons' releases."""
        self.released = {name: lesson.query(vault, log.part(name)) for name, lesson in self.lessons.items()}

    def pretrain(self, public: Images | None, log: Log) -> None:
        """Learn one lesson after the other, by exact gradients."""
        for (name, lesson), settings in zip(self.lessons.items(), self.settings.lessons, strict=True):
            if public is None and lesson.reads_public:
                raise UserError(f"lesson {name} learns from public images: give -P public=<data set or image folder>")
            phase = log.part(name)
            images = lesson.images(self.released.get(name, {}), public, phase)
            how = self.settings.fit_of(settings)
            if len(images) < how.batch and not lesson.reads_public:
                # What was paid for is not refused now.
                log.say(f"{name}: {len(images)} images do not fill a batch of {how.batch}: all of them are in each")
                how = how.model_copy(update={"batch": len(images)})
            self._learn(images, how, name, phase)
        self.released = {}
        self.loaded = True

    def _learn(self, images: Images, how: LearnSettings, name: str, log: Log) -> None:
        """Learn from images that are not sensitive, the batch shared out among the processes."""
        world = self.task.world
        batches = PublicBatches(images, how, self.model.null, self.task.seed, name, world)
        loss = DenoisingLoss(self.settings.loss, self.model.null)
        used = Lowered(loss) if self.task.lower else loss
        self.average = MovingAverage(self.model, how.ema)

        def share(step: int) -> Tensor:
            rows = [row.to(self.task.device) for row in batches.rows(loss, step)]
            return used.per_row(self.model, *rows).sum() / how.batch

        self._fit(shared(share, self.model, done(log, name), world), how, how.count(len(images)), name, log)

    def train(self, vault: Vault, log: Log) -> None:
        """Train by the vault's gradients, at the charge that `plan` named."""
        how = self.settings.train
        if self.released:
            raise UserError("this is the checkpoint of a query, from which nothing is learnt yet: leave checkpoint out")
        if how.tune is not None and not self.loaded:
            raise UserError(
                "train.tune leaves most of the network as pretraining made it, and there was none: give "
                "-P public=<data set>, -P pretrain_run=<run id> or -P checkpoint=<file>"
            )
        tune(self.model, how.tune)
        spec = how.spec(self.task, done(log, "train"))
        loss = DenoisingLoss(self.settings.loss, self.model.null, how.multiplicity)
        self.average = MovingAverage(self.model, how.ema)
        self._fit(vault.gradients(CHARGE, loss, self.model, spec), how, how.count(vault.n), "train", log)
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
        """Return the averaged weights, or what was released before there are any that were trained."""
        if self.released:
            return {"released": self.released}
        return {"denoiser": self.average.network.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned, into the model and its average.

        Raises:
            UserError: when it comes from a network of another shape.
        """
        self.released = state.get("released", {})
        if self.released:
            return
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


def curriculum(settings: DiffusionSettings, task: Task) -> dict[str, Lesson]:
    """Return the configured lessons by their names: the kind of each, numbered from the second of its kind on.

    Raises:
        ValueError: when a lesson does not fit the task, or nothing would learn from the public images that are given.
    """
    lessons: dict[str, Lesson] = {}
    for chosen in settings.lessons:
        maker = registry.load("lesson", chosen.kind)
        kind = chosen.kind.rpartition(":")[2].lower()
        earlier = sum(name.partition("-")[0] == kind for name in lessons)
        name = f"{kind}-{earlier + 1}" if earlier else kind
        lessons[name] = maker(chosen, task, name)
    if task.public_classes is not None and not any(lesson.reads_public for lesson in lessons.values()):
        raise ValueError("no lesson learns from public images: leave public out, or use a method that does")
    return lessons


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
