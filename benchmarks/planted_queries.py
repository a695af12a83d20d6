"""Faults of queries, each as the pieces that it replaces: their noise, their features, and what is handed on."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.planted import Patch
from dpib.chain import Before
from dpib.diffusion.lessons.central import CentralLesson, ClassSums
from dpib.diffusion.lessons.selected import Votes
from dpib.images import Images
from dpib.privacy import sums
from dpib.privacy.ledger import Account
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault
from dpib.stages import train as training


def seeded_noise() -> list[Patch]:
    def faulty(self: NoiseSource, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    return [(NoiseSource, "normal", faulty)]


def votes_not_bounded() -> list[Patch]:
    def faulty(self: Votes, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        scores = self._network(x)
        liked = (scores > scores.mean(1, keepdim=True)).double() / math.sqrt(self._each)
        return (F.one_hot(y, self._classes).T * weights.double()) @ liked

    return [(Votes, "weighted_sum", faulty)]


def sums_over_private_counts() -> list[Patch]:
    sound = ClassSums.weighted_sum

    def faulty(self: ClassSums, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        counts = F.one_hot(y, self._classes).sum(0).clamp(min=1)
        return sound(self, x, y, weights) / counts[:, None] * 10

    return [(ClassSums, "weighted_sum", faulty)]


def images_over_private_counts() -> list[Patch]:
    def faulty(self: CentralLesson, released: dict[str, Any], public: None, log: object) -> Images:
        means = released["sums"].flatten(0, 1).float()
        brightest = means.flatten(1).amax(1).clamp(min=1e-6)  # as good as a count
        x = F.interpolate(means / brightest.view(-1, 1, 1, 1), size=self.task.shape[1:])
        return Images((x * 255).to(torch.uint8), torch.arange(self.task.classes))

    return [(CentralLesson, "images", faulty)]


def every_process_asks() -> list[Patch]:
    def faulty(self: Vault, name: str, feature: Any, index: int = 0) -> Tensor:
        return self._noised_sum(self._planned(name, "gaussian"), feature, index)

    return [(Vault, "release_sum", faulty)]


def one_noise_for_all_releases() -> list[Patch]:
    sound = Vault._noised_sum

    def faulty(self: Vault, charge: Any, feature: Any, index: int) -> Tensor:
        return sound(self, charge, feature, 0)

    return [(Vault, "_noised_sum", faulty)]


def every_record_in_a_sample() -> list[Patch]:
    return [(sums, "poisson", lambda noise, n, rate, cap: torch.ones(n, dtype=torch.bool))]


def one_sample_for_all_releases() -> list[Patch]:
    sound, kept = sums.poisson, {}

    def faulty(noise: NoiseSource, n: int, rate: float, cap: int | None) -> Tensor:
        if (id(noise), n) not in kept:
            kept[id(noise), n] = noise, sound(noise, n, rate, cap)
        return kept[id(noise), n][1]

    return [(sums, "poisson", faulty)]


def dropped_from_the_ledger() -> list[Patch]:
    return [(training, "inherit", lambda upstream, account, same: account)]


def history_overwritten() -> list[Patch]:
    sound = training.inherit

    def faulty(upstream: Account, account: Account, same: Any) -> Account:
        whole = sound(upstream, account, same)
        return whole.model_copy(update={"events": whole.events[-1:]})

    return [(training, "inherit", faulty)]


def pretraining_of_any_query() -> list[Patch]:
    return [(Before, "stages", lambda self: {})]
