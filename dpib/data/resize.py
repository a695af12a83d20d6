"""The one way in which images come to a data set's shape: those that are judged as those that they are judged by."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Shape = tuple[int, int, int]


def fitted(picture: Image.Image, shape: Shape) -> np.ndarray:
    """Turn a picture gray or RGB, cut its central square, and resize that (Lanczos): uint8 [c, h, w].

    A picture of the right height and width is not cut.
    """
    c, h, w = shape
    picture = picture.convert("L" if c == 1 else "RGB")
    if picture.size != (w, h):
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.resize((w, h), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    array = np.asarray(picture)
    return array[None] if c == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def fit(x: Tensor, shape: Shape) -> Tensor:
    """Return uint8 images [n, 1 or 3, height, width] as uint8 [n, *shape], each as `fitted` does it."""
    out = np.empty((len(x), *shape), dtype=np.uint8)
    for i, pixels in enumerate(x.numpy()):
        picture = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
        out[i] = fitted(Image.fromarray(picture), shape)
    return torch.from_numpy(out)
