"""Utility draws by counter: any record's numbers, in any chunk and on any device, without drawing those before them.

Philox 4x32 with ten rounds (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC 2011) in
torch's integers, so that one code serves CPU and GPU. Privacy noise never comes from here.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Words: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
"""Four words of 32 bits in int64, of shapes that broadcast."""

_ROUNDS = 10
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF
_UNIT = 2.0**-32
_BLOCK = 2**15  # counters at a time on a CPU: their words stay in its cache


class Draws:
    """The random numbers of some records; each follows from the seed, its record, and how many were drawn before it.

    What is drawn for a record does not depend on which other records are there.

    Args:
        seed: at most 64 bits, see `seeding.derive`.
        records: int64 [b], not negative: the number of each record. Draws are made on its device.
    """

    def __init__(self, seed: int, records: Tensor) -> None:
        self._key = seed & _WORD, seed >> 32 & _WORD
        self._records = records
        self._calls = 0

    def uniform(self, *shape: int) -> Tensor:
        """Return float32 [b, *shape], uniform in [0, 1) on a grid of 2**24 points."""
        return self._numbers(shape, lambda words: [(word >> 8).to(torch.float32).mul_(2.0**-24) for word in words])

    def normal(self, *shape: int) -> Tensor:
        """Return float32 [b, *shape], standard normal by Box and Muller (1958), within 6.7 standard deviations."""
        return self._numbers(shape, _normal)

    def _numbers(self, shape: tuple[int, ...], make: Callable[[Words], Sequence[Tensor]]) -> Tensor:
        """Return float32 [b, *shape], four numbers of each counter's four words."""
        n, device = math.prod(shape), self._records.device
        each = -(-n // 4)
        most = _BLOCK if device.type == "cpu" else max(1, each * len(self._records))
        out = torch.empty(len(self._records), 4, each, device=device)
        call = torch.full((), self._calls, device=device)
        self._calls += 1
        size = max(1, most // max(1, each))
        for records, rows in zip(self._records[:, None].split(size), out.split(size), strict=True):
            for block, place in zip(torch.arange(each, device=device).split(most), rows.split(most, 2), strict=True):
                words = philox((block, call, records & _WORD, records >> 32), self._key)
                for number, values in enumerate(make(words)):
                    place[:, number] = values
        return out.flatten(1)[:, :n].reshape(-1, *shape)


def _normal(words: Words) -> list[Tensor]:
    """Return four standard normal numbers of four words."""
    first, second, third, fourth = (word.to(torch.float32) for word in words)
    pairs = []
    for radius, angle in ((first, second), (third, fourth)):
        # A word of 0 must not become a logarithm of 0.
        length = radius.add_(1).mul_(_UNIT).log_().mul_(-2).sqrt_()
        turned = angle.mul_(2 * math.pi * _UNIT)
        pairs += [length * turned.cos(), length.mul_(turned.sin_())]
    return pairs


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Return the four words that belong to four words of a counter and two of a key, all 32 bits in int64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # Products wrap around at 64 bits with all their bits right; shifts drag the sign in, and the mask takes it off.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = ((p1 >> 32) ^ c1).bitwise_xor_(k0).bitwise_and_(_WORD), p1
        c2, c3 = ((p0 >> 32) ^ c3).bitwise_xor_(k1).bitwise_and_(_WORD), p0
        k0, k1 = k0 + _WEYL[0] & _WORD, k1 + _WEYL[1] & _WORD
    return c0, c1 & _WORD, c2, c3 & _WORD
