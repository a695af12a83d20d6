"""Faults in the privacy noise, each as the pieces that it replaces."""

from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.planted import Patch
from dpib.privacy import rng
from dpib.privacy.events import Charge
from dpib.privacy.gradients import PrivateSteps
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault


def scaled(factor: float) -> list[Patch]:
    """Return a fault that scales the normal noise."""
    normal = NoiseSource.normal
    return [(NoiseSource, "normal", lambda self, shape: normal(self, shape) * factor)]


def half_the_rows() -> list[Patch]:
    normal = NoiseSource.normal

    def faulty(self: NoiseSource, shape: tuple[int, ...]) -> Tensor:
        drawn = normal(self, shape)
        drawn.view(-1)[drawn.numel() // 2 :] = 0
        return drawn

    return [(NoiseSource, "normal", faulty)]


def uniform() -> list[Patch]:
    def faulty(self: NoiseSource, shape: tuple[int, ...]) -> Tensor:
        count = int(torch.Size(shape).numel())
        return torch.from_numpy(self.uniform(count) - 0.5).view(shape) * 12**0.5

    return [(NoiseSource, "normal", faulty)]


def fixed_key() -> list[Patch]:
    return [(rng.secrets, "token_bytes", lambda n: bytes(n))]


def reused() -> list[Patch]:
    normal, kept = NoiseSource.normal, {}

    def faulty(self: NoiseSource, shape: tuple[int, ...]) -> Tensor:
        key = (id(self), shape)
        if key not in kept:
            kept[key] = (self, normal(self, shape))
        return kept[key][1].clone()

    return [(NoiseSource, "normal", faulty)]


def none_after_a_resume() -> list[Patch]:
    sound = PrivateSteps._noise

    def faulty(self: PrivateSteps) -> Tensor:
        return sound(self) * (self.spec.start == 0)

    return [(PrivateSteps, "_noise", faulty)]


def divided_among_processes() -> list[Patch]:
    sound = PrivateSteps._noise
    return [(PrivateSteps, "_noise", lambda self: sound(self) / self.world.size)]


def restarted_at_each_release() -> list[Patch]:
    sound = Vault._planned

    def faulty(self: Vault, *arguments: Any) -> Charge:
        self._noise._draws = 0
        return sound(self, *arguments)

    return [(Vault, "_planned", faulty)]


def nonce_repeats(after: int) -> list[Patch]:
    sound = NoiseSource._reserved

    def faulty(self: NoiseSource, draws: int) -> Any:
        self._draws %= after
        return sound(self, draws)

    return [(NoiseSource, "_reserved", faulty)]


def one_nonce_for_all_blocks() -> list[Patch]:
    sound = NoiseSource._fill
    # Blocks so short that the small networks of an audit have several.
    return [(rng, "_BLOCK", 16), (NoiseSource, "_fill", lambda self, block, draw: sound(self, block, 0))]


def counts_without_noise(kind: str) -> list[Patch]:
    sound = Vault.release_count

    def faulty(self: Vault, *arguments: Any) -> float:
        with mock.patch.object(NoiseSource, kind, return_value=torch.zeros(1)):
            return sound(self, *arguments)

    return [(Vault, "release_count", faulty)]


def laplace_scaled(factor: float) -> list[Patch]:
    laplace = NoiseSource.laplace
    return [(NoiseSource, "laplace", lambda self, n, scale: laplace(self, n, scale) * factor)]


def drawn_again() -> list[Patch]:
    return [(Vault, "_finished", lambda self, name, index=0: None)]
