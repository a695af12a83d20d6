"""The start-up check: a strategy that is wrong on the model in use is never chosen."""

import logging

import pytest
import torch
from torch import nn

from dpib.errors import UserError
from dpib.privacy.per_record import autotune, loop, memory
from dpib.privacy.per_record.probes import Probes
from tests.privacy.nets import Denoise, Net, Sequence, make


def choose(model, loss, strategy="auto", physical=4):
    return autotune.choose(model, loss, Probes(loss, (1, 8, 8), 3, torch.device("cpu")), strategy, physical)


def spoil(monkeypatch, spoiled):
    """Make `grouped` the loop with its sum altered; only it and the loop are to choose from."""
    monkeypatch.setattr(autotune, "STRATEGIES", ("loop", "grouped"))
    monkeypatch.setattr(autotune, "load", lambda name: loop.clipped_sum if name == "loop" else spoiled)


def scaled(model, loss, rows, clip):
    return [1.0001 * part for part in loop.clipped_sum(model, loss, rows, clip)]


def mixing(model, loss, rows, clip):
    """Clip the sum over records instead of every record."""
    whole = loop.clipped_sum(model, loss, tuple(row.flatten(0, 1)[None] for row in rows), clip)
    return [len(rows[0]) * part for part in whole]


def blind(model, loss, rows, clip):
    """Lose the gradient of the first layer, which is zero as long as the last layer is."""
    parts = loop.clipped_sum(model, loss, rows, clip)
    return [torch.zeros_like(parts[0]), *parts[1:]]


def nan(model, loss, rows, clip):
    return [part * float("nan") for part in loop.clipped_sum(model, loss, rows, clip)]


@pytest.mark.parametrize("spoiled", [scaled, mixing, blind, nan])
def test_a_wrong_strategy_is_dropped_with_a_line_in_the_log(monkeypatch, caplog, spoiled):
    model = make(lambda: Sequence(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 1)))
    nn.init.zeros_(model.layers[1].weight)
    spoil(monkeypatch, spoiled)
    with caplog.at_level(logging.INFO):
        assert choose(model, Denoise(2)).name == "loop"
    assert "grouped is out: its sum differs" in caplog.text
    with pytest.raises(UserError, match="'grouped' does not fit this model: its sum differs"):
        choose(model, Denoise(2), "grouped")


def test_what_is_asked_for_is_taken_if_it_is_right():
    for name in autotune.STRATEGIES:
        assert choose(make(Net), Denoise(1), name).name == name


def test_auto_takes_the_fastest(monkeypatch):
    monkeypatch.setattr(autotune, "_seconds", lambda name, *_: {"vmap": 1.0}.get(name, 2.0))
    assert choose(make(Net), Denoise(1)).name == "vmap"


@pytest.mark.parametrize(
    ("cost", "free", "taken"),
    [
        (lambda n: 0.005 + 0.001 * n, 10**12, 128),  # 512 take more than 0.95 of the time
        (lambda n: 0.001 * n, 10**12, 32),  # nothing is gained
        (lambda n: 0.02 * n**0.5, 10**12, 512),
        (lambda n: 0.25 * n**0.5, 10**12, 32),  # a larger chunk would take more than a second to try
        (lambda n: 0.02 * n**0.5, 10**5, None),
    ],
)
def test_chunks_grow_as_long_as_it_pays_and_fits(monkeypatch, cost, free, taken):
    tried = []

    def seconds(name, model, loss, rows):
        tried.append(len(rows[0]))
        return cost(len(rows[0]))

    monkeypatch.setattr(autotune, "STRATEGIES", ("grouped",))
    monkeypatch.setattr(autotune, "_seconds", seconds)
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    model, loss = make(Net), Denoise(1)
    choice = choose(model, loss, physical=None)
    most = memory.fitting(model, loss, Probes(loss, (1, 8, 8), 3, torch.device("cpu")).random(1))
    assert choice.physical == (taken or most)
    assert max(tried) <= most


def test_vmap_gets_smaller_chunks_for_the_same_memory(monkeypatch):
    monkeypatch.setattr(autotune, "STRATEGIES", ("vmap",))
    monkeypatch.setattr(autotune, "_seconds", lambda *_: 1e-3)
    monkeypatch.setattr(memory, "fitting", lambda *_: 100)
    assert choose(make(Net), Denoise(1), physical=None).physical == 25


def test_dropout_leaves_the_loop(caplog):
    """Random layers differ from call to call, so no other strategy can be compared with the loop."""
    assert choose(make(lambda: Sequence(nn.Conv2d(1, 1, 3, padding=1), nn.Dropout())), Denoise(2)).name == "loop"


def test_chunks_shrink_with_the_free_memory(monkeypatch):
    model, loss = make(Net), Denoise(4)
    rows = Probes(loss, (1, 8, 8), 3, torch.device("cpu")).random(1)
    sizes = []
    for free in (10**12, 10**6, 10**5, 1):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        sizes.append(memory.fitting(model, loss, rows))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 512
    assert sizes[-1] == 1
    assert sizes[1] > sizes[2]


def test_the_estimate_grows_with_the_draws():
    model = make(Net)
    kept = [
        memory._activations(model, Denoise(k), Probes(Denoise(k), (1, 8, 8), 3, torch.device("cpu")).random(1))
        for k in (1, 8)
    ]
    assert 7 < kept[1] / kept[0] <= 8
