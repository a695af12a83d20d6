"""Image grids for people to look at."""

import numpy as np
import torch
from torch import Tensor

from dpib.images import Images


def grid(x: Tensor, columns: int, gap: int = 2) -> np.ndarray:
    """Return uint8 images [n, c, h, w] as one picture [height, width, 3], row by row, on white."""
    n, _, h, w = x.shape
    rows = -(-n // columns)
    canvas = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, 3), 255, dtype=np.uint8)
    pixels = x.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
    for i in range(n):
        top, left = gap + i // columns * (h + gap), gap + i % columns * (w + gap)
        canvas[top : top + h, left : left + w] = pixels[i]
    return canvas


def by_class(images: Images, classes: int, per_class: int = 10, most: int = 10) -> Tensor:
    """Return the first `per_class` images of each of the first `most` classes, a row per class.

    Classes with fewer images have their row filled with black ones.
    """
    rows = []
    for label in range(min(classes, most)):
        found = images.x[images.y == label][:per_class]
        blank = torch.zeros(per_class - len(found), *images.shape, dtype=torch.uint8)
        rows.append(torch.cat([found, blank]))
    return torch.cat(rows)
