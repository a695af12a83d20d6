"""Features `joined`: several maps in one release, each with a share of the norm."""

import math
from typing import Annotated, ClassVar, Self

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from torch import Tensor

from dpib import registry
from dpib.kernels.features import FeatureSettings, Rows, build, rows_of


class JoinedSettings(FeatureSettings):
    """Keys of `features.*`."""

    maps: list[Annotated[SerializeAsAny[FeatureSettings], BeforeValidator(registry.chosen("features"))]] = Field(
        min_length=1
    )
    shares: list[Annotated[float, Field(gt=0)]] = Field(description="of the squared norm, one to a map; their sum is 1")

    @model_validator(mode="after")
    def _norm_of_one(self) -> Self:
        if len(self.shares) != len(self.maps) or not math.isclose(sum(self.shares), 1, abs_tol=1e-9):
            raise ValueError(f"shares must be {len(self.maps)} numbers, one to a map, that add to 1, not {self.shares}")
        if any("count_weight" in own.model_fields_set for own in self.maps):
            raise ValueError("count_weight is of all maps together: give it beside them")
        return self


class JoinedFeatures:
    """phi(x) = [sqrt(a_1) phi_1(x), sqrt(a_2) phi_2(x), ...]: its kernel is the mean of theirs with the shares a_i.

    Its norm is 1 where theirs is. One release carries them all, under one noise.

    Args:
        settings: the maps and their shares.
        shape: channels, height, width of an image.
        generator: public; the maps draw from it one after the other.
        device: where features are computed.
    """

    Settings: ClassVar[type[FeatureSettings]] = JoinedSettings

    def __init__(
        self,
        settings: JoinedSettings,
        shape: tuple[int, int, int],
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self._maps = [build(own, shape, generator, device) for own in settings.maps]
        self._weights = [math.sqrt(share) for share in settings.shares]

    @property
    def dimension(self) -> int:
        """D, that of all maps together."""
        return sum(features.dimension for features in self._maps)

    def map(self, x: Tensor) -> Tensor:
        """Return phi for float images in [0, 1] [n, c, h, w]: float [n, D], differentiable in x."""
        return torch.cat([a * features.map(x) for a, features in zip(self._weights, self._maps, strict=True)], 1)

    def rows(self, x: Tensor) -> "JoinedRows":
        """Return the same, in the form that each map has for its own."""
        parts = [rows_of(features, x) for features in self._maps]
        return JoinedRows(parts, self._weights, [features.dimension for features in self._maps])


class JoinedRows:
    """Rows of several maps side by side, each with its weight."""

    def __init__(self, parts: list[Rows], weights: list[float], dimensions: list[int]) -> None:
        self._parts, self._weights, self._dimensions = parts, weights, dimensions

    def norms(self) -> Tensor:
        """Return the norm of every row, float64 [n]."""
        squares = [a**2 * rows.norms().square() for a, rows in zip(self._weights, self._parts, strict=True)]
        return torch.stack(squares).sum(0).sqrt()

    def sums(self, assign: Tensor) -> Tensor:
        """Return the sums of rows with the weights `assign`: float [classes, D]."""
        return torch.cat([a * rows.sums(assign) for a, rows in zip(self._weights, self._parts, strict=True)], 1)

    def against(self, assign: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums' inner products with `means`, and their squared norms."""
        met, squares = [], []
        for a, rows, own in zip(self._weights, self._parts, means.split(self._dimensions, 1), strict=True):
            part, square = rows.against(assign, own)
            met.append(a * part)
            squares.append(a**2 * square)
        return torch.stack(met).sum(0), torch.stack(squares).sum(0)
