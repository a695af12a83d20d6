"""Read anybody's synthetic set: `x` images and `y` labels in an npz, in the layouts that people use."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpib.data import npz
from dpib.data.catalog import Card
from dpib.errors import UserError
from dpib.images import Images, from_unit
from dpib.public import adapt
from dpib.section import clipped


def read_gen(path: Path, card: Card) -> tuple[Images, dict[str, Any] | None]:
    """Return the images of a synthetic set in the card's shape, and its privacy statement if it has one.

    Accepts x as uint8 or float in [0, 1]; [n, h, w], [n, c, h, w] or [n, h, w, c]; gray or RGB; any
    resolution (resized as preparing files of that size would). y are integers from 0 to classes - 1.

    Raises:
        UserError: naming what is wrong with the file.
    """
    known = npz.headers(path)
    arrays = npz.load(path, ("x", "y"))
    x = _pixels(arrays["x"], path)
    y = _labels(arrays["y"], len(x), len(card.classes), path)
    statement = None
    if "statement" in known:
        text = npz.load(path, ("statement",))["statement"]
        try:
            statement = json.loads(str(text))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: its statement is not JSON ({error})") from None
        if not isinstance(statement, dict):
            raise UserError(f"{path}: its statement is not a JSON object")
    return adapt(Images(x, y), card.shape), statement


def doubts(images: Images, statement: dict[str, Any] | None, card: Card) -> list[str]:
    """Return what makes it doubtful that a set imitates the data set of `card`: a line each."""
    lines = []
    ledger = (statement or {}).get("ledger")
    named = ledger.get("dataset") if isinstance(ledger, dict) else None
    if named not in (None, card.name):
        lines.append(f"the set states that it was made from {clipped(str(named))}, and is judged as one of {card.name}")
    absent = sorted(set(range(len(card.classes))) - set(images.y.unique().tolist()))
    if absent:
        names = clipped(", ".join(card.classes[k] for k in absent))
        lines.append(f"the set has no image of {len(absent)} of {len(card.classes)} classes: {names}")
    return lines


def _pixels(array: np.ndarray, path: Path) -> Tensor:
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min(initial=0) < 0 or array.max(initial=0) > 1:
            raise UserError(f"{path}: float x must lie in [0, 1], it goes from {array.min()} to {array.max()}")
        x = from_unit(torch.from_numpy(array.astype(np.float32)))
    elif array.dtype == np.uint8:
        if array.max(initial=0) == 1:
            raise UserError(f"{path}: uint8 x holds only 0 and 1, which is all but black: scale it to 0 to 255")
        x = torch.from_numpy(array)
    else:
        raise UserError(f"{path}: x is {array.dtype}; it must be uint8, or float in [0, 1]")
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or len(x) == 0:
        raise UserError(f"{path}: x has shape {list(array.shape)}; it must be [n, c, h, w] or [n, h, w, c]")
    if x.shape[1] in (1, 3):
        return x.contiguous()
    if x.shape[3] in (1, 3):
        return x.permute(0, 3, 1, 2).contiguous()
    raise UserError(f"{path}: x has shape {list(array.shape)}; it must have 1 or 3 channels")


def _labels(array: np.ndarray, n: int, classes: int, path: Path) -> Tensor:
    if array.dtype.kind not in "iu" or array.shape != (n,):
        raise UserError(f"{path}: y is {array.dtype} {list(array.shape)}; it must be integers [{n}]")
    if array.min() < 0 or array.max() >= classes:
        raise UserError(f"{path}: y goes from {array.min()} to {array.max()}; this data set has {classes} classes")
    return torch.from_numpy(array.astype(np.int64))
