"""Source files as the official ones are, but small."""

import io
import struct

from PIL import Image

from dpib.data.catalog import Sizes


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def png(color, size=(40, 30), mode="RGB", form="PNG"):
    out = io.BytesIO()
    Image.new(mode, size, color).save(out, form)
    return out.getvalue()


def small(card, train, test):
    """Return a card with other sizes and no checksums, for files that a test makes."""
    return card.model_copy(update={"sizes": Sizes(train=train, test=test), "checksums": None, "holdout": 0})
