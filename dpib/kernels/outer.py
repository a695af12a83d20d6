"""Rows of a feature map that are outer products: class sums and inner products without a row per image."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class OuterRows:
    """Row i is the concatenation over blocks of left_i (x) right_i, flat.

    A sum of rows is then a matrix product, left^T right, and an inner product of two rows is a product of inner
    products, <left_i, left_j> <right_i, right_j>: neither ever has n x D numbers.

    Args:
        left: of every block, float [n, p].
        right: of every block, float [n, q].
    """

    def __init__(self, left: Sequence[Tensor], right: Sequence[Tensor]) -> None:
        self._blocks = list(zip(left, right, strict=True))
        self._sizes = [u.shape[1] * v.shape[1] for u, v in self._blocks]

    def normalised(self) -> "OuterRows":
        """Return the rows over their norms."""
        norms = torch.stack([u.square().sum(1) * v.square().sum(1) for u, v in self._blocks]).sum(0).sqrt()
        return OuterRows([u / norms[:, None] for u, _ in self._blocks], [v for _, v in self._blocks])

    def matrix(self) -> Tensor:
        """Return the rows themselves, float [n, D]."""
        return torch.cat([(u[:, :, None] * v[:, None, :]).flatten(1) for u, v in self._blocks], 1)

    def norms(self) -> Tensor:
        """Return the norm of every row, float64 [n]."""
        squares = [u.double().square().sum(1) * v.double().square().sum(1) for u, v in self._blocks]
        return torch.stack(squares).sum(0).sqrt()

    def sums(self, assign: Tensor) -> Tensor:
        """Return the sums of rows with the weights `assign`, float [classes, n]: float [classes, D]."""
        total = assign.new_empty(len(assign), sum(self._sizes))
        for row, blocks in zip(total, self._weighted(assign), strict=True):
            for place, (u, v) in zip(row.split(self._sizes), blocks, strict=True):
                place.view(u.shape[1], -1).copy_(u.T @ v)
        return total

    def against(self, assign: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inner product of each of these sums with its row of `means`, and its squared norm: [classes]."""
        met, squares = [], []
        for blocks, mean in zip(self._weighted(assign), means, strict=True):
            parts = [part.view(u.shape[1], -1) for part, (u, _) in zip(mean.split(self._sizes), blocks, strict=True)]
            met.append(_total((u @ part) * v for part, (u, v) in zip(parts, blocks, strict=True)))
            squares.append(_total((u @ u.T) * (v @ v.T) for u, v in blocks))
        return torch.stack(met), torch.stack(squares)

    def _weighted(self, assign: Tensor) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Yield the blocks of each class's own rows, with their weights: a row of another class costs nothing."""
        for weights in assign:
            own = weights.nonzero().flatten()
            yield [(u[own] * weights[own, None], v[own]) for u, v in self._blocks]


def _total(products: Iterator[Tensor]) -> Tensor:
    return torch.stack([product.sum() for product in products]).sum()
