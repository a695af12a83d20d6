"""The bundled public digits: what their card says, always the same, and all classes told apart."""

import torch

from dpib.data import store
from dpib.data.catalog import find_card
from dpib.data.glyphs import read_glyphs
from dpib.data.prepare import ensure


def test_glyphs_are_what_their_card_says_and_need_no_files(tmp_path):
    card = find_card("glyphs_28", tmp_path)
    ensure(card, tmp_path)
    train, test = (store.read_split(tmp_path, card, split) for split in ("train", "test"))
    assert (len(train), len(test), train.shape) == (2000, 400, (1, 28, 28))
    assert train.y.bincount().tolist() == [200] * 10
    assert torch.equal(read_glyphs(card)["test"].x, test.x)
    # White on black, most of the frame empty, no image blank, hardly two alike.
    assert 10 < train.x.float().mean() < 110
    assert (train.x.flatten(1).amax(1) > 200).all()
    assert len(train.x.flatten(1).unique(dim=0)) > 1900


def test_the_nearest_class_mean_tells_glyphs_apart(tmp_path):
    splits = read_glyphs(find_card("glyphs_28", tmp_path))
    x, y = (splits["train"].x.float().flatten(1), splits["train"].y)
    means = torch.stack([x[y == label].mean(0) for label in range(10)])
    found = torch.cdist(splits["test"].x.float().flatten(1), means).argmin(1)
    assert (found == splits["test"].y).double().mean() > 0.6
