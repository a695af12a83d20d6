"""Mean embeddings of random samples, one release to a step of the generator: the targets that it follows."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dpib.kernels.embedding import Embedding
from dpib.privacy.vault import Vault

_LEAST = 0.1  # of an equal share: what noise makes of the count of a rare class must not blow up its mean


class StepReleases:
    """The noised sum over a Poisson sample of its own for every step; a step follows the mean of all until then.

    One sample's sum alone is mostly noise, and a mean of what was released is as private. What an interrupted run had
    released is read again, never drawn again.

    Args:
        vault: releases one sum per step under one charge.
        name: of the charge.
        features: of a labelled record.
        records: expected records of a sample, over all classes.
        start: how many steps are done.
    """

    def __init__(self, vault: Vault, name: str, features: Embedding, records: int, start: int) -> None:
        self._vault, self._name, self._features, self._records = vault, name, features, records
        self._made, self._total = 0, torch.zeros((), dtype=torch.float64)
        for _ in range(start):
            self._next()

    def _next(self) -> None:
        self._total = self._total + self._vault.release_sum(self._name, self._features, self._made)
        self._made += 1

    def targets(self) -> Iterator[Tensor]:
        """Yield class-wise means, float64 [classes, D], each after one fresh release."""
        while True:
            self._next()
            yield self._features.means(self._total / self._made, self._counts())

    def proportions(self) -> Tensor:
        """Return the class proportions by all releases, float64 [classes]."""
        return self._counts() / self._counts().sum()

    def _counts(self) -> Tensor:
        """Return how many records of each class a sample has on average."""
        counts = self._features.counts(self._total / self._made)
        return counts.clamp(min=_LEAST * self._records / len(counts))
