"""Digits set in type: public images for any machine, drawn from the fonts that matplotlib brings along."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from dpib.data.catalog import Card
from dpib.images import Images

_FONTS = (
    "DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic",
    "DejaVuSerif-Bold", "STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "cmr10", "cmss10",
)  # fmt: skip
_SEED = 20
_SCALE = 2  # drawn twice as large and averaged down, for soft edges


def read_glyphs(card: Card) -> dict[str, Images]:
    """Draw the card's numbers of images: every class as often, in all fonts, turned, slanted and moved a little."""
    rng = np.random.default_rng(_SEED)
    return {
        "train": _draw(card, card.sizes.train, rng),
        "test": _draw(card, card.sizes.test, rng),
    }


def _draw(card: Card, n: int, rng: np.random.Generator) -> Images:
    from matplotlib import get_data_path  # a second to import, for one path

    side = card.shape[1]
    folder = Path(get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(str(folder / f"{name}.ttf"), round(0.85 * side * _SCALE)) for name in _FONTS]
    labels = np.arange(n) % len(card.classes)
    pictures = np.empty((n, 1, side, side), dtype=np.uint8)
    for i, label in enumerate(labels):
        picture = _glyph(card.classes[label], fonts[rng.integers(len(fonts))], side * _SCALE, rng)
        pictures[i, 0] = np.asarray(picture.resize((side, side), Image.Resampling.BOX))
    return Images(torch.from_numpy(pictures), torch.from_numpy(labels))


def _glyph(text: str, font: ImageFont.FreeTypeFont, side: int, rng: np.random.Generator) -> Image.Image:
    picture = Image.new("L", (side, side))
    centre = side / 2
    ImageDraw.Draw(picture).text((centre, centre), text, fill=255, font=font, anchor="mm")
    angle, slant = rng.uniform(-0.2, 0.2), rng.uniform(-0.3, 0.3)
    width, height = rng.uniform(0.85, 1.3, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[width, slant], [0, height]])
    move = centre - matrix @ (centre + rng.uniform(-0.05, 0.05, 2) * side)
    affine = (matrix[0, 0], matrix[0, 1], move[0], matrix[1, 0], matrix[1, 1], move[1])
    return picture.transform((side, side), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
