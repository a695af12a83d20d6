"""Draws by counter: the published numbers, the same in every chunk, and nothing in common between any two."""

import pytest
import torch
from scipy import stats

from dpib import draws
from dpib.draws import Draws, philox

ALL = 0xFFFFFFFF
PI = 0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344
MORE_PI = 0xA4093822, 0x299F31D0


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ALL,) * 4, (ALL, ALL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (PI, MORE_PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_the_words_are_those_that_the_authors_publish(counter, key, expected):
    words = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word) for word in words) == expected


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4, 1, 7, 7), (2, 70_001)])
def test_a_record_has_the_same_draws_in_any_chunk(shape, monkeypatch):
    def drawn(records):
        those = Draws(11, torch.tensor(records))
        return those.uniform(*shape), those.normal(*shape), those.normal(*shape)

    together = drawn([7, 2**40, 0, 3])
    assert all(part.shape == (4, *shape) for part in together)
    for alone in ([3], [0], [7, 2**40]):
        places = [[7, 2**40, 0, 3].index(record) for record in alone]
        for whole, part in zip(together, drawn(alone), strict=True):
            assert torch.equal(whole[places], part)
    monkeypatch.setattr(draws, "_BLOCK", 5)
    if len(shape) < 2:
        assert all(torch.equal(a, b) for a, b in zip(together, drawn([7, 2**40, 0, 3]), strict=True))


def test_draws_are_of_the_distributions_they_are_called_by():
    those = Draws(3, torch.arange(1000))
    uniform, normal = those.uniform(100).flatten().double(), those.normal(99).flatten().double()
    assert 0 <= uniform.min() < 1e-4
    assert 1 - 1e-4 < uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert normal.abs().max() > 4


def test_no_two_seeds_records_calls_or_places_have_draws_in_common():
    def drawn(seed, record, calls):
        those = Draws(seed, torch.tensor([record]))
        for _ in range(calls):
            those.uniform()
        return those.normal(4000)[0].double()

    rows = [drawn(seed, record, calls) for seed in (0, 1, 2**32, 2**62) for record in (0, 1, 2**32) for calls in (0, 1)]
    rows += [row.roll(shift) for row in rows[:1] for shift in (1, 2, 3, 4, 1000, 2000)]
    table = torch.stack(rows)
    apart = torch.corrcoef(table) - torch.eye(len(table))
    assert apart.abs().max() < 5.5 / 4000**0.5
    assert len(table[:24].unique()) > 0.99 * table[:24].numel()


def test_words_at_the_ends_give_finite_normals(monkeypatch):
    ends = torch.tensor([[0, ALL]])
    monkeypatch.setattr(draws, "philox", lambda counter, key: (ends, ends, ends, ends))
    found = Draws(0, torch.arange(1)).normal(8)
    assert found.isfinite().all()
    assert found.abs().max() < 6.7
