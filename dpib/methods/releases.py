"""Mean embeddings of random samples, one release to a step of the generator: the targets that it follows."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dpib.kernels.embedding import Embedding
from dpib.privacy.vault import Vault

_LEAST = 0.1  # of an equal share: what noise makes of the count of a rare class must not blow up its mean


class StepReleases:
    """The noised sum over a Poisson sample of its own for every step, and the class counts of all until then.

    A sample's own counts would be mostly noise: its sums are divided by the mean count over the releases so far.
    What an interrupted run had released is read again, never drawn again.

    Args:
        vault: releases one sum per step under one charge.
        name: of the charge.
        features: of a labelled record.
        records: expected records of a sample, over all classes.
        start: how many steps are done.
    """

    def __init__(self, vault: Vault, name: str, features: Embedding, records: int, start: int) -> None:
        self._vault, self._name, self._features, self._records = vault, name, features, records
        self._made, self._counted = 0, torch.zeros((), dtype=torch.float64)
        for _ in range(start):
            self._next()

    def _next(self) -> Tensor:
        sums = self._vault.release_sum(self._name, self._features, self._made)
        self._made += 1
        self._counted = self._counted + self._features.counts(sums)
        return sums

    def targets(self) -> Iterator[Tensor]:
        """Yield class-wise means, float64 [classes, D], of one fresh release after the other."""
        while True:
            sums = self._next()
            yield self._features.means(sums, self._counts())

    def proportions(self) -> Tensor:
        """Return the class proportions by all releases, float64 [classes]."""
        return self._counts() / self._counts().sum()

    def _counts(self) -> Tensor:
        return (self._counted / self._made).clamp(min=_LEAST * self._records / len(self._counted))
