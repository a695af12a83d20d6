"""What a feature map is to the mean-embedding methods: all that one must read to add one (see docs/extend.md)."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol

import torch
from pydantic import Field
from torch import Tensor

from dpib import registry
from dpib.errors import UserError
from dpib.section import Section


class FeatureSettings(Section):
    """What every feature map has; `kind` is its name in the registry, or `path/to/file.py:Class`."""

    kind: str
    count_weight: float = Field(
        default=0.1, gt=0, description="public weight of the coordinate that carries class counts"
    )


class FeatureMap(Protocol):
    """phi: a vector of norm 1 for every image. Its inner products are a kernel, of which the method takes the means.

    It is constructed as ``FeatureMap(settings, shape, generator, device)``: from its own settings, the channels, height
    and width of an image, and a public generator, so that it can be rebuilt from the seed. A map that knows its rows
    by less than a matrix may have a method `rows` of its own, from the same images to `Rows`.
    """

    Settings: ClassVar[type[FeatureSettings]]

    @property
    def dimension(self) -> int:
        """D, the length of phi(x)."""

    def map(self, x: Tensor) -> Tensor:
        """Return phi for float images in [0, 1] [n, c, h, w]: float [n, D], differentiable in x."""


class Rows(Protocol):
    """phi of the images of a batch, and what sums and distances need of it."""

    def norms(self) -> Tensor:
        """Return the norm of every row, float64 [n]: measured, unless it is 1 whatever the image is."""

    def sums(self, assign: Tensor) -> Tensor:
        """Return the sums of rows with the weights `assign`, float [classes, n]: float [classes, D]."""

    def against(self, assign: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inner product of each of these sums with its row of `means`, and its squared norm: [classes]."""


class Dense:
    """Rows as a matrix, made when it is needed.

    Args:
        x: the images, float [n, c, h, w].
        make: maps them to float [n, D].
        unit: whether every row has norm 1 by construction.
    """

    def __init__(self, x: Tensor, make: Callable[[Tensor], Tensor], unit: bool = False) -> None:
        self._x, self._make, self._unit = x, make, unit

    @cached_property
    def _matrix(self) -> Tensor:
        return self._make(self._x)

    def norms(self) -> Tensor:
        """Return the norm of every row, float64 [n]."""
        if self._unit:
            return torch.ones(len(self._x), dtype=torch.float64, device=self._x.device)
        norms: Tensor = torch.linalg.vector_norm(self._matrix, dim=1, dtype=torch.float64)
        return norms

    def sums(self, assign: Tensor) -> Tensor:
        """Return the sums of rows with the weights `assign`: float [classes, D]."""
        return assign @ self._matrix

    def against(self, assign: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums' inner products with `means`, and their squared norms."""
        sums = self.sums(assign)
        return (sums * means).sum(1), sums.square().sum(1)


def rows_of(features: FeatureMap, x: Tensor) -> Rows:
    """Return phi of float images in [0, 1] [n, c, h, w], in the form that the map has for it."""
    own: Callable[[Tensor], Rows] | None = getattr(features, "rows", None)
    return own(x) if own is not None else Dense(x, partial(_checked, features))


def _checked(features: FeatureMap, x: Tensor) -> Tensor:
    matrix = features.map(x)
    if matrix.shape != (len(x), features.dimension):
        raise UserError(
            f"{type(features).__name__}.map returned {list(matrix.shape)} for {len(x)} images, not "
            f"{[len(x), features.dimension]}: see docs/extend.md"
        )
    return matrix


def build(
    settings: FeatureSettings, shape: tuple[int, int, int], generator: torch.Generator, device: torch.device
) -> FeatureMap:
    """Return the feature map that `settings` name."""
    maker: Any = registry.load("features", settings.kind)
    features: FeatureMap = maker(settings, shape, generator, device)
    return features
