"""A small MNIST in its official layout."""

import gzip

import numpy as np
import pytest

from dpib.data.catalog import CARDS, read_card
from tests.data.made import idx_bytes, small


@pytest.fixture
def mnist(tmp_path):
    """Return a folder with small files in the official layout, and their content."""
    rng, content = np.random.default_rng(0), {}
    for split, stem, n in (("train", "train", 40), ("test", "t10k", 12)):
        x = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        y = (np.arange(n) % 10).astype(np.uint8)
        content[split] = (x, y)
        for name, array in ((f"{stem}-images-idx3-ubyte", x), (f"{stem}-labels-idx1-ubyte", y)):
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
    return tmp_path, content


@pytest.fixture
def mnist_card():
    return small(read_card(CARDS / "mnist_28.yaml"), 40, 12)
