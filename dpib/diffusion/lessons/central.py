"""Lesson `central`: noised means of random samples of every class.

K. Li, C. Gong, X. Hou, T. Wang: From easy to hard: building a shortcut for differentially private image synthesis
(DP-FETA), IEEE S&P 2025, arXiv:2504.01395.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dpib.checkpoint import State
from dpib.diffusion.lessons.lesson import LessonSettings
from dpib.errors import UserError
from dpib.images import Images, from_unit, to_unit
from dpib.privacy.events import Charge
from dpib.privacy.vault import Vault
from dpib.section import Positive
from dpib.synthesizer import Log, Task

_SHARPER = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 5.0, -1.0], [0.0, -1.0, 0.0]])


class CentralSettings(LessonSettings):
    """Keys of this lesson."""

    samples: Positive = Field(description="how many samples are drawn, each for one image of every class")
    batch: Positive = Field(description="expected records in a sample")
    noise_multiplier: float | None = Field(
        default=None, gt=0, description="noise over the most that one image adds to a sum; none: calibrated to epsilon"
    )
    scale: Positive = Field(default=2, description="of every so many pixels of a row or column one is summed")


class CentralLesson:
    """Sums of a Poisson sample's images by class, noised, over a number that everybody knows: batch / classes.

    The published division by a class's size in the sample would let one image of a rare class move its mean further
    than the noise is made for, and would tell that a class is absent.
    """

    Settings: ClassVar[type[LessonSettings]] = CentralSettings
    reads_public: ClassVar[bool] = False

    def __init__(self, settings: CentralSettings, task: Task, name: str) -> None:
        self.settings, self.task, self.name = settings, task, name
        if any(side % settings.scale for side in task.shape[1:]):
            raise ValueError(f"lesson {name}: scale={settings.scale} does not divide {task.shape[1]} pixels")

    def charges(self, n: int) -> tuple[Charge, ...]:
        """Return one charge for all samples.

        Raises:
            UserError: when a sample is to be larger than the data.
        """
        how = self.settings
        if how.batch > n:
            raise UserError(f"lesson {self.name}: batch={how.batch} exceeds the {n} training images: lower it")
        label = "noised sums of the images of a random sample, by class"
        rate = how.batch / n
        return (
            Charge(
                self.name, "gaussian", label, sigma=how.noise_multiplier, rate=rate, count=how.samples, stage="query"
            ),
        )

    def query(self, vault: Vault, log: Log) -> State:
        """Release the sums: float64 [samples, classes, channels, height / scale, width / scale]."""
        feature = ClassSums(self.task.shape, self.task.classes, self.settings.scale)
        sums = [vault.release_sum(self.name, feature, index) for index in range(self.settings.samples)]
        return {"sums": torch.stack(sums).view(len(sums), self.task.classes, *feature.shape) * feature.bound}

    def images(self, released: State, public: Images | None, log: Log) -> Images:
        """Return one image of each class from every sample, brought to full size and smoothed."""
        sums: Tensor = released["sums"]
        means = (sums * self.task.classes / self.settings.batch).clamp(0, 1).float().flatten(0, 1)
        x = F.interpolate(means, size=self.task.shape[1:], mode="bilinear", align_corners=False)
        x = _median(to_unit(from_unit(x)))
        if self.task.shape[0] == 1:
            x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), _SHARPER.view(1, 1, 3, 3))
        images = Images(from_unit(x), torch.arange(self.task.classes).repeat(len(sums)))
        log.grid(f"{self.name}-images", images.take(images.y.argsort(stable=True)[:100]), 0)
        return images


class ClassSums:
    """A record's feature: its pixels in [0, 1], at its label, over the root of their number: its norm is at most 1."""

    def __init__(self, shape: tuple[int, int, int], classes: int, scale: int) -> None:
        c, h, w = shape
        self.shape, self._classes, self._scale = (c, h // scale, w // scale), classes, scale
        self.bound = math.sqrt(math.prod(self.shape))

    def _rows(self, x: Tensor) -> Tensor:
        return x[:, :, :: self._scale, :: self._scale].flatten(1).to("cpu", torch.float64) / (255 * self.bound)

    def norms(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the norm of every record's feature, float64 [n]."""
        norms: Tensor = torch.linalg.vector_norm(self._rows(x), dim=1)
        return norms

    def weighted_sum(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of features: float64 [classes, pixels]."""
        assign: Tensor = F.one_hot(y.cpu(), self._classes).T * weights.to("cpu", torch.float64)
        return assign @ self._rows(x)


def _median(x: Tensor) -> Tensor:
    """Return images [n, c, h, w] in which every pixel is the median of the nine around it."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    middle: Tensor = padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).median(4).values
    return middle
