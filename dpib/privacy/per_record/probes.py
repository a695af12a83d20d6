"""Made-up records on which a model is checked before it sees any other: random ones, and ones with structure."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dpib import seeding
from dpib.images import Images
from dpib.privacy.per_record.base import RecordLoss, Rows
from dpib.privacy.per_record.draws import draw

_FEW = 3  # records of a structured batch


@dataclass(frozen=True)
class Probes:
    """Draws of images that are right in shape and have nothing to do with any data."""

    loss: RecordLoss
    shape: tuple[int, int, int]
    classes: int
    device: torch.device

    def random(self, count: int) -> Rows:
        """Return the draws of `count` random images with random labels."""
        return self._drawn(self._random(count))

    def structured(self) -> list[Rows]:
        """Return batches on which a rare branch may be taken: all black, all equal, extreme values, one class."""
        return [self._drawn(images) for images in self._structured()]

    def apart(self) -> Iterator[tuple[Rows, list[Rows]]]:
        """Yield the draws of some records together, and of each of them alone."""
        for images in (self._random(_FEW), *self._structured()):
            yield self._drawn(images), [self._drawn(images, torch.tensor([i])) for i in range(len(images))]

    def _random(self, count: int) -> Images:
        stream = seeding.generator(0, "probe")
        x = torch.randint(0, 256, (count, *self.shape), generator=stream, dtype=torch.uint8)
        return Images(x, torch.randint(0, self.classes, (count,), generator=stream))

    def _structured(self) -> list[Images]:
        stream = seeding.generator(0, "structured probe")
        random = torch.randint(0, 256, (_FEW, *self.shape), generator=stream, dtype=torch.uint8)
        extreme = 255 * torch.randint(0, 2, (_FEW, *self.shape), generator=stream, dtype=torch.uint8)
        extreme[0] = 255
        mixed = torch.arange(_FEW) % self.classes
        batches = [
            (torch.zeros_like(random), mixed),
            (random[:1].repeat(_FEW, 1, 1, 1), torch.zeros_like(mixed)),
            (extreme, mixed),
            (random, torch.full_like(mixed, self.classes - 1)),
        ]
        return [Images(x, y) for x, y in batches]

    def labels(self, size: int) -> Iterator[Rows]:
        """Yield random images of every label once, at most `size` at a time."""
        stream = seeding.generator(0, "label probe")
        for y in torch.arange(self.classes).split(size):
            x = torch.randint(0, 256, (len(y), *self.shape), generator=stream, dtype=torch.uint8)
            yield self._drawn(Images(x, y))

    def _drawn(self, images: Images, index: Tensor | None = None) -> Rows:
        return draw(self.loss, images, torch.arange(len(images)) if index is None else index, 0, 0, self.device)


def fewer(rows: Rows, draws: int) -> Rows:
    """Return the first `draws` draws of every record."""
    return tuple(row[:, :draws] for row in rows)
