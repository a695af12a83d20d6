"""Faults of mean embeddings, each as the pieces that it replaces: features, their norms, and what a step is told."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.planted import Patch
from dpib.kernels.embedding import Embedding
from dpib.kernels.joined import JoinedFeatures, JoinedRows
from dpib.kernels.outer import OuterRows
from dpib.methods.releases import StepReleases
from dpib.privacy import sums
from dpib.privacy.rng import NoiseSource


def _assumed(self: object, x: Tensor, y: Tensor) -> Tensor:
    return torch.ones(len(x), dtype=torch.float64)


def not_normalised() -> list[Patch]:
    return [(OuterRows, "normalised", lambda self: self), (Embedding, "norms", _assumed)]


def copies_scaled_after_the_norm() -> list[Patch]:
    def faulty(self: OuterRows) -> OuterRows:
        *deltas, copies = [u for u, _ in self._blocks]
        right = [v for _, v in self._blocks]
        once = OuterRows([*deltas, torch.ones_like(copies)], right)
        norms = once.norms().float()[:, None]
        return OuterRows([u / norms for u in (*deltas, copies)], right)

    return [(OuterRows, "normalised", faulty), (Embedding, "norms", _assumed)]


def maps_each_of_norm_one() -> list[Patch]:
    def faulty(self: JoinedFeatures, x: Tensor) -> JoinedRows:
        rows = [features.rows(x) for features in self._maps]  # type: ignore[attr-defined]
        return JoinedRows(rows, [1.0] * len(rows), [features.dimension for features in self._maps])

    return [(JoinedFeatures, "rows", faulty), (Embedding, "norms", _assumed)]


def counts_beside_the_norm() -> list[Patch]:
    sound = Embedding.weighted_sum

    def faulty(self: Embedding, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        return sound(self, x, y, weights) * self._scale

    return [(Embedding, "weighted_sum", faulty)]


def sum_without_noise() -> list[Patch]:
    def faulty(self: StepReleases) -> Iterator[Tensor]:
        while True:
            self._next()
            images = self._vault._images
            clean = self._features.weighted_sum(images.x, images.y, torch.ones(len(images)))
            yield self._features.means(clean, self._counts())

    return [(StepReleases, "targets", faulty)]


def noise_drawn_once() -> list[Patch]:
    sound, kept = NoiseSource.normal, {}

    def faulty(self: NoiseSource, shape: tuple[int, ...]) -> Tensor:
        if (id(self), shape) not in kept:
            kept[id(self), shape] = self, sound(self, shape)
        return kept[id(self), shape][1]

    return [(NoiseSource, "normal", faulty)]


def fixed_size() -> list[Patch]:
    def faulty(noise: NoiseSource, n: int, rate: float, cap: int | None) -> Tensor:
        mask = torch.zeros(n, dtype=torch.bool)
        mask[torch.randperm(n)[: round(n * rate)]] = True
        return mask

    return [(sums, "poisson", faulty)]
