"""Faults in the choice of a step's records and in what is charged, each as the pieces that it replaces."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.planted import Patch
from dpib.draws import Draws
from dpib.privacy import gradients
from dpib.privacy.events import Charge
from dpib.privacy.gradients import PrivateSteps
from dpib.privacy.ledger import Ledger
from dpib.privacy.rng import NoiseSource


def mask_repeats(after: int) -> list[Patch]:
    sound = gradients.poisson
    kept: dict[tuple[int, int], tuple[NoiseSource, Tensor]] = {}
    calls: dict[int, int] = {}

    def faulty(noise: NoiseSource, *arguments: Any) -> Tensor:
        call = calls[id(noise)] = calls.get(id(noise), -1) + 1
        return kept.setdefault((id(noise), call % after), (noise, sound(noise, *arguments)))[1]

    return sampler(faulty)


def sampler(faulty: Callable[..., Tensor]) -> list[Patch]:
    """Return a fault in the choice of a step's records."""
    return [(gradients, "poisson", faulty)]


def shuffled() -> list[Patch]:
    orders: dict[int, tuple[NoiseSource, list[int]]] = {}

    def faulty(noise: NoiseSource, n: int, rate: float, cap: int | None) -> Tensor:
        size = round(n * rate)
        _, left = orders.setdefault(id(noise), (noise, []))
        if len(left) < size:
            left[:] = torch.from_numpy(noise.uniform(n)).argsort().tolist()
        chosen, left[:] = left[:size], left[size:]
        mask = torch.zeros(n, dtype=torch.bool)
        mask[chosen] = True
        return mask

    return sampler(faulty)


def fixed_size() -> list[Patch]:
    def faulty(noise: NoiseSource, n: int, rate: float, cap: int | None) -> Tensor:
        return torch.from_numpy(noise.uniform(n)).argsort().argsort() < round(n * rate)

    return sampler(faulty)


def rate_doubled() -> list[Patch]:
    sound = gradients.poisson
    return sampler(lambda noise, n, rate, cap: sound(noise, n, min(1.0, 2 * rate), cap))


def public_sampler() -> list[Patch]:
    state = {"step": 0}

    def faulty(noise: NoiseSource, n: int, rate: float, cap: int | None) -> Tensor:
        state["step"] = (state["step"] + 1) % STEPS_OF_A_TRAINING
        return torch.rand(n, generator=torch.Generator().manual_seed(state["step"])) < rate

    return sampler(faulty)


STEPS_OF_A_TRAINING = 60


def private_divisor() -> list[Patch]:
    sound = PrivateSteps._shared
    sizes: list[int] = []
    members = PrivateSteps._members

    def counting(self: PrivateSteps) -> Tensor:
        sizes[:] = [len(members_ := members(self))]
        return members_

    def faulty(self: PrivateSteps, total: Tensor) -> list[Tensor]:
        return sound(self, total * len(self.images) * self.charge.rate / max(1, sizes[0]))

    return [(PrivateSteps, "_members", counting), (PrivateSteps, "_shared", faulty)]


def one_step_more() -> list[Patch]:
    sound = PrivateSteps.__iter__

    def faulty(self: PrivateSteps) -> Iterator[Any]:
        longer = replace(self, charge=replace(self.charge, count=self.charge.count + 1))
        return sound(longer)

    return [(PrivateSteps, "__iter__", faulty)]


def charged_for_half() -> list[Patch]:
    sound = Ledger.reserve

    def faulty(self: Ledger, charges: list[Charge], scope: Any) -> None:
        sound(self, [replace(c, count=max(1, c.count // 2)) for c in charges], scope)

    return [(Ledger, "reserve", faulty)]


def not_charged() -> list[Patch]:
    return [(Ledger, "reserve", lambda self, charges, scope: None)]


def two_records_with_one_counter() -> list[Patch]:
    sound = Draws.__init__
    return [(Draws, "__init__", lambda self, seed, records: sound(self, seed, records // 2))]
