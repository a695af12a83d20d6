"""Part `classifier`: which public class an image looks like, by a network of timm's.

It is trained on the public images from nothing, or weights from outside make its features and only a linear
discriminant is fitted on top: in closed form, whatever classes the weights were trained for.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dpib import seeding
from dpib.checkpoint import State
from dpib.errors import UserError
from dpib.images import Epochs, Images, to_unit
from dpib.nn.weights import read_weights
from dpib.paths import written_path
from dpib.precision import passes
from dpib.section import PartSettings, Positive
from dpib.synthesizer import Log, Task
from dpib.training import cosine, done, fit, shared

_SHRINKAGE = 0.1
_RANGE = (0.5, 0.5, 0.5)


class ClassifierSettings(PartSettings):
    """Keys of this part."""

    model: str = Field(description="any network of timm's that pools its features, e.g. resnet50")
    size: Positive = Field(default=32, description="pixels of a side, to which images are resized")
    stride: Positive | None = Field(
        default=None, description="resnets: a 3 x 3 stem of this stride and no pooling, for small images; none: timm's"
    )
    per_class: Positive | None = Field(default=None, description="images of a class that are looked at; none: all")
    epochs: Positive = 100
    batch: Positive = 128
    lr: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    flip: bool = Field(default=True, description="mirror every other image while training")


class Classifier:
    """Scores of the public classes for images of the task's shape."""

    Settings: ClassVar[type[PartSettings]] = ClassifierSettings

    def __init__(self, settings: ClassifierSettings, task: Task) -> None:
        self.settings, self.task = settings, task
        self._build(len(task.public_classes or ("unknown",)))

    def _build(self, classes: int) -> None:
        with seeding.seeded(self.task.seed, "classifier"):
            self._network = Scorer(self.settings, classes).to(self.task.device)

    def fit(self, public: Images, log: Log) -> None:
        """Train on the public images and their labels; log the accuracy on a tenth that is held out.

        Raises:
            UserError: when the weights do not fit the network, or the images no batch.
        """
        order = torch.randperm(len(public), generator=seeding.generator(self.task.seed, "classifier", "split"))
        public = _few(public.take(order), self.settings.per_class)
        held, rest = public.take(slice(0, len(public) // 10)), public.take(slice(len(public) // 10, None))
        if self.settings.weights is not None:
            load_backbone(self._network.backbone, self.settings.weights)
            self._network.discriminate(rest, self.task.device)
        else:
            self._train(rest, log)
        share = self._accuracy(held)
        log.curve("classifier/accuracy", share, 0)
        log.say(f"classifier: right for {share:.1f} % of {len(held)} public images that it was not fitted to")

    @torch.no_grad()
    def _accuracy(self, images: Images) -> float:
        chunks, device = images.chunks(self.settings.batch), self.task.device
        hits = sum(int((self.network()(c.x.to(device)).argmax(1).cpu() == c.y).sum()) for c in chunks)
        return 100 * hits / max(1, len(images))

    def _train(self, images: Images, log: Log) -> None:
        how, device = self.settings, self.task.device
        if len(images) < how.batch:
            raise UserError(f"{len(images)} public images do not fill a batch of {how.batch}: lower the part's batch")
        network, world, seed = self._network.train(), self.task.world, self.task.seed
        epochs = Epochs(len(images), how.batch, seed, "classifier")

        def share(step: int) -> Tensor:
            batch = images.take(epochs.index(step))
            x = batch.x
            if how.flip:
                mirrored = torch.rand(len(x), generator=seeding.generator(seed, "classifier", "flip", step)) < 0.5
                x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
            own = slice(world.rank, None, world.size)
            with passes(self.task.lower, device):
                scores = network(x[own].to(device))
            return F.cross_entropy(scores.float(), batch.y[own].to(device), reduction="sum") / how.batch

        steps = how.epochs * (len(images) // how.batch)
        fit(
            network,
            shared(share, network, done(log, "classifier"), world),
            torch.optim.SGD(network.parameters(), lr=how.lr, momentum=how.momentum, weight_decay=how.weight_decay),
            steps=steps,
            lr=cosine(how.lr, steps),
            streams={},
            log=log,
            name="classifier",
        )
        network.eval()

    def network(self) -> nn.Module:
        """Return the network: uint8 images [n, c, h, w] to scores [n, public classes], its buffer `classes` long."""
        return self._network.eval()

    def state_dict(self) -> State:
        """Return the weights."""
        return {"network": dict(self._network.state_dict())}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned.

        Raises:
            UserError: when it comes from another network.
        """
        weights = state.get("network", {})
        try:
            self._build(int(weights["classes"]))
            self._network.load_state_dict(weights)
        except (KeyError, RuntimeError) as error:
            raise UserError(
                f"the checkpoint is not one of a classifier with model={self.settings.model} and "
                f"stride={self.settings.stride} ({str(error).splitlines()[0]})"
            ) from None


class Scorer(nn.Module):
    """A backbone's pooled features, and a linear map to one score per public class."""

    def __init__(self, settings: ClassifierSettings, classes: int) -> None:
        super().__init__()
        self.size, self.batch = settings.size, settings.batch
        self.backbone = _backbone(settings)
        with torch.no_grad():
            width = int(self.backbone(torch.zeros(2, 3, self.size, self.size)).shape[1])
        self.head = nn.Linear(width, classes)
        self.register_buffer("classes", torch.tensor(classes))
        mean, spread = (settings_of(self.backbone, key) if settings.weights else _RANGE for key in ("mean", "std"))
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("spread", torch.tensor(spread).view(1, 3, 1, 1))

    def features(self, x: Tensor) -> Tensor:
        """Return the pooled features of uint8 images [n, 1 or 3, h, w]: float [n, width]."""
        unit = to_unit(x).expand(-1, 3, -1, -1)
        if unit.shape[-1] != self.size:
            unit = F.interpolate(unit, size=(self.size, self.size), mode="bilinear", antialias=True).clamp(0, 1)
        found: Tensor = self.backbone((unit - self.get_buffer("mean")) / self.get_buffer("spread"))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Return scores [n, classes] of uint8 images [n, 1 or 3, h, w]."""
        scores: Tensor = self.head(self.features(x))
        return scores

    @torch.no_grad()
    def discriminate(self, images: Images, device: torch.device) -> None:
        """Set the head to the linear discriminant of the images' features (Fisher 1936), its covariance shrunk."""
        self.eval()
        found = torch.cat([self.features(c.x.to(device)).double() for c in images.chunks(self.batch)])
        labels = images.y.to(device)
        assign = F.one_hot(labels, int(self.get_buffer("classes"))).T.to(found)
        counts = assign.sum(1).clamp(min=1)
        means = assign @ found / counts[:, None]
        apart = found - means[labels]
        covariance = apart.T @ apart / len(found)
        typical = covariance.diagonal().mean().clamp(min=1e-12)
        covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * typical * torch.eye(len(covariance)).to(found)
        weight = torch.linalg.solve(covariance, means.T).T
        self.head.weight.copy_(weight)
        self.head.bias.copy_(counts.log() - (weight * means).sum(1) / 2)


def _backbone(settings: ClassifierSettings) -> Any:
    import timm  # takes seconds to import, which commands that build no part should not wait for

    try:
        network = timm.create_model(settings.model, pretrained=False, num_classes=0)
    except RuntimeError as error:
        raise ValueError(f"parts: model={settings.model}: {error}; timm.list_models() knows the names") from None
    if settings.stride is not None:
        norm = getattr(network, "bn1", None)
        if not isinstance(norm, nn.BatchNorm2d) or not hasattr(network, "maxpool"):
            raise ValueError(f"parts: stride is for resnets, {settings.model} is none")
        network.conv1 = nn.Conv2d(3, norm.num_features, 3, settings.stride, 1, bias=False)
        network.maxpool = nn.Identity()
    return network


def settings_of(backbone: Any, key: str) -> tuple[float, ...]:
    """Return what timm knows of how a backbone's weights want their images: `mean` or `std` of each channel."""
    return tuple(backbone.pretrained_cfg[key])


def load_backbone(backbone: nn.Module, name: str) -> None:
    """Load weights from a file into a backbone, by their names, or in their order where all shapes agree.

    What the file holds beyond the backbone, such as a classifier, stays out.

    Raises:
        UserError: when there is no such file, or it does not fit.
    """
    path = written_path(name)
    if not path.is_file():
        raise UserError(f"weights {path} do not exist: give the part's weights a file, or none")
    found, needed = read_weights(path), backbone.state_dict()
    if not set(needed) <= set(found):
        kept = list(found.values())[: len(needed)]
        if [v.shape for v in kept] != [v.shape for v in needed.values()]:
            missing = next(key for key in needed if key not in found)
            raise UserError(f"{path} does not hold weights of this network: {missing} is missing, by name and by order")
        found = dict(zip(needed, kept, strict=True))
    try:
        backbone.load_state_dict({key: found[key] for key in needed})
    except RuntimeError as error:
        raise UserError(f"{path} does not hold weights of this network: {str(error).splitlines()[1].strip()}") from None


def _few(images: Images, each: int | None) -> Images:
    """Return the first `each` images of every class, in their order."""
    if each is None:
        return images
    seen: dict[int, int] = {}
    kept = []
    for place, label in enumerate(images.y.tolist()):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= each:
            kept.append(place)
    return images.take(torch.tensor(kept))
