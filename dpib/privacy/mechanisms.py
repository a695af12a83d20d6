"""What a vault is asked to release: features to sum, predictors to count, and gradients to take."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec
from dpib.privacy.per_record.base import RecordLoss


class Feature(Protocol):
    """A vector-valued feature of one record, meant to have Euclidean norm at most 1."""

    def norms(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the norm of every record's feature, float64 [batch]; sums of squares in float32 fall short of it."""

    def weighted_sum(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Return the sum over the batch of `weights` times feature, without a row per record."""


Predictor = Callable[[Tensor], Tensor]
"""Maps uint8 images [n, c, h, w] to predicted labels int64 [n]."""


@dataclass(frozen=True)
class SumMechanism:
    """What `release_sum` is about to do."""

    feature: Feature


@dataclass(frozen=True)
class StepsMechanism:
    """What `gradients` is about to do."""

    loss: RecordLoss
    model: nn.Module
    spec: GradientSpec


Witness = Callable[[Charge, SumMechanism | StepsMechanism], None]
"""Told of every mechanism before it runs; sees no record. An audit learns from it what a method releases."""
