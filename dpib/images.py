"""Labelled images: the one type that data, methods, metrics and the vault exchange."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from dpib import seeding


@dataclass(frozen=True)
class Images:
    """`x` uint8 [n, channels, height, width] and `y` int64 [n].

    Raises:
        ValueError: for other types or shapes, or when the two lengths differ.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise ValueError(f"images must be uint8 [n, c, h, w], got {self.x.dtype} {list(self.x.shape)}")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise ValueError(f"labels must be int64 [{len(self.x)}], got {self.y.dtype} {list(self.y.shape)}")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        _, c, h, w = self.x.shape
        return c, h, w

    def take(self, index: Tensor | slice) -> Self:
        """Return the records at `index`, in that order."""
        return type(self)(self.x[index], self.y[index])

    def chunks(self, size: int) -> Iterator[Self]:
        """Yield consecutive pieces of at most `size` records."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))


def to_unit(x: Tensor) -> Tensor:
    """Map uint8 levels 0..255 to float32 in [0, 1]."""
    return x.to(torch.float32) / 255


def from_unit(x: Tensor) -> Tensor:
    """Map floats in [0, 1] to the nearest of the 256 levels (clamped)."""
    return (x.detach().clamp(0, 1) * 255).round().to(torch.uint8)


def random_batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield index batches of `size` for ever, each epoch a fresh permutation of range(n); the rest is dropped.

    Raises:
        ValueError: when `n` is smaller than `size`: no whole batch exists.
    """
    if n < size:
        raise ValueError(f"{n} images do not fill one batch of {size}")
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order[: n - n % size].split(size)


class Epochs:
    """Which of n records make up the batch of any step: it follows from the seed, the name and the step alone.

    Every epoch is a fresh permutation, whose rest is dropped.

    Args:
        n: how many records there are.
        size: how many a batch has, at most n.
        seed: with `name`, decides every permutation.
        name: of what the batches are for.
    """

    def __init__(self, n: int, size: int, seed: int, name: str) -> None:
        self._n, self._size, self._seed, self._name = n, size, seed, name
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def index(self, step: int) -> Tensor:
        """Return the positions of a step's batch, int64 [size]."""
        epoch, place = divmod(step, self._n // self._size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(self._n, generator=seeding.generator(self._seed, self._name, "epoch", epoch))
        return self._order[place * self._size : (place + 1) * self._size]


def record_digests(images: Images) -> list[bytes]:
    """Return a digest of the pixels of every image, labels apart: equal for exact copies only."""
    pixels = np.ascontiguousarray(images.x.numpy())
    return [hashlib.blake2b(image.data, digest_size=16).digest() for image in pixels]


def set_digest(images: Images) -> str:
    """Return a digest of a set: the same for every order of its images and whatever their labels."""
    return hashlib.sha256(b"".join(sorted(record_digests(images)))).hexdigest()
