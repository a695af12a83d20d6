"""Privacy noise: ChaCha20 keyed by the operating system, never saved, never logged, never the utility seed."""

import hashlib
import itertools
import math
import secrets
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from torch import Tensor

_BLOCK = 2**15
"""Normal numbers at a time: they stay in a processor's cache, and torch does not share them out among threads."""


class NoiseSource:
    """Draw noise that nobody can predict or replay.

    `unsafe_seed` replaces the secret key by a public one. It exists for tests; what it draws is not
    private, and `tainted` says so to everything downstream.
    """

    def __init__(self, unsafe_seed: int | None = None) -> None:
        self.tainted = unsafe_seed is not None
        if unsafe_seed is None:
            self._key = secrets.token_bytes(32)
        else:
            self._key = hashlib.sha256(f"dpib unsafe noise {unsafe_seed}".encode()).digest()
        self._draws = 0

    @property
    def drawn(self) -> bool:
        """Whether anything was drawn from it."""
        return self._draws > 0

    def uniform(self, n: int) -> np.ndarray:
        """Return `n` independent float64 in the open interval (0, 1), on a grid of 2**52 points."""
        return self._uniform(n, self._reserved(1))

    def _reserved(self, draws: int) -> int:
        """Return the number of the first of `draws` draws that nobody else makes."""
        first = self._draws
        self._draws += draws
        return first

    def _uniform(self, n: int, draw: int) -> np.ndarray:
        # Each draw has a nonce of its own, so that the block counter never wraps into used key stream.
        nonce = bytes(4) + draw.to_bytes(12, "little")
        stream = Cipher(algorithms.ChaCha20(self._key, nonce), mode=None).encryptor().update(bytes(8 * n))
        # 52 bits, not 53: every midpoint of that grid is a float64, so neither 0 nor 1 can come out.
        return ((np.frombuffer(stream, dtype=np.uint64) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal float64 of `shape` by Box and Muller (1958).

        The grid cuts the tails at 8.6 standard deviations, an event of probability 1e-17. Blocks are drawn by as many
        threads as torch may use, and are the same for any number of them.
        """
        values = torch.empty(math.prod(shape), dtype=torch.float64)
        blocks = values.split(_BLOCK)
        first = self._reserved(len(blocks))
        # The cipher and torch's arithmetic let other threads run meanwhile; a single block is not worth a thread.
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            each = map if len(blocks) == 1 else threads.map
            list(each(self._fill, blocks, itertools.count(first)))
        return values.reshape(shape)

    def _fill(self, block: Tensor, draw: int) -> None:
        """Write standard normal numbers over a block of float64."""
        half = (len(block) + 1) // 2
        u = torch.from_numpy(self._uniform(2 * half, draw))
        radius, angle = u[:half].log_().mul_(-2).sqrt_(), u[half:].mul_(2 * math.pi)
        torch.mul(radius, angle.cos(), out=block[:half])
        torch.mul(radius[: len(block) - half], angle[: len(block) - half].sin(), out=block[half:])

    def laplace(self, n: int, scale: float) -> Tensor:
        """Return `n` independent float64 from the Laplace distribution of mean 0 and the given scale."""
        u = self.uniform(n) - 0.5
        return torch.from_numpy(-scale * np.sign(u) * np.log1p(-2 * np.abs(u)))

    def bernoulli(self, n: int, probability: float) -> Tensor:
        """Return `n` independent booleans, each true with `probability` (Poisson sampling of records)."""
        return torch.from_numpy(self.uniform(n) < probability)
