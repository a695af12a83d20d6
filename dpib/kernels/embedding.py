"""The feature of a labelled record, whose sum over records is the class-wise mean embedding with the class counts."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dpib.images import to_unit
from dpib.kernels.features import FeatureMap, FeatureSettings, Rows, build, rows_of


class Embedding:
    """e_y (x) [phi(x), w] / sqrt(1 + w^2), float [classes, D + 1], for any feature map phi.

    The last column counts the class. Where phi has norm 1, so has this, for every record.

    Args:
        features: phi.
        classes: the number of classes.
        count_weight: w.
        device: where features are computed.
    """

    def __init__(self, features: FeatureMap, classes: int, count_weight: float, device: torch.device) -> None:
        self._features, self._classes, self._device = features, classes, device
        self._weight, self._scale = count_weight, math.sqrt(1 + count_weight**2)

    def rows(self, x: Tensor) -> Rows:
        """Return phi of float images in [0, 1] [n, c, h, w], differentiable in x."""
        return rows_of(self._features, x)

    @torch.no_grad()
    def norms(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the norm of every record's feature, float64 [n], for uint8 images."""
        own = self.rows(to_unit(x.to(self._device))).norms()
        return ((own.square() + self._weight**2) / (1 + self._weight**2)).sqrt()

    @torch.no_grad()
    def weighted_sum(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return sum_i weights_i feature(x_i, y_i) for uint8 images: float [classes, D + 1]."""
        counted = weights != 0
        if not counted.any():
            return torch.zeros(self._classes, self._features.dimension + 1)
        if not counted.all():  # what does not count need not even be finite
            place = counted.cpu()
            x, y, weights = x[place], y[place], weights[counted]
        assign = F.one_hot(y.to(self._device), self._classes).T * weights.to(self._device, torch.float32)
        sums = self.rows(to_unit(x.to(self._device))).sums(assign)
        return torch.cat([sums, assign.sum(1, keepdim=True) * self._weight], 1).div_(self._scale)

    def class_means(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a released sum into class-wise mean embeddings and class proportions (post-processing).

        Args:
            total: float [classes, D + 1].

        Returns:
            means [classes, D] and proportions [classes], which are positive and sum to 1.
        """
        # Noise can make the count of a rare class tiny or negative: no class counts less than one image.
        counts = self.counts(total).clamp(min=1)
        return self.means(total, counts), counts / counts.sum()

    def counts(self, total: Tensor) -> Tensor:
        """Return how many records of each class a sum is of, [classes]; noised if the sum is."""
        return total[:, -1] * self._scale / self._weight

    def means(self, total: Tensor, counts: Tensor) -> Tensor:
        """Return a sum's class-wise means [classes, D], `counts` [classes] records to each class."""
        return total[:, :-1] * self._scale / counts[:, None]


def embedding(
    settings: FeatureSettings,
    shape: tuple[int, int, int],
    classes: int,
    generator: torch.Generator,
    device: torch.device,
) -> Embedding:
    """Return the feature of a labelled record by the map that `settings` name, which `generator` decides."""
    return Embedding(build(settings, shape, generator, device), classes, settings.count_weight, device)
