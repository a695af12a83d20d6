"""Audit of DP-SGD in two processes: each record counts once, and the sum has the whole noise.

The processes are threads here, which exchange tensors where processes would: what is audited is who does what.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dpib.distributed import World
from dpib.privacy.audit import canaries
from dpib.privacy.audit.canaries import Training
from dpib.privacy.audit.findings import Finding
from dpib.privacy.audit.noise import audit_noise
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec
from dpib.privacy.rng import NoiseSource

_SIZE, _CANARIES, _STEPS = 2, 200, 12


class _Table:
    """Where the members of a world lay their tensors for each other."""

    def __init__(self, size: int) -> None:
        self.turn = threading.Barrier(size)
        self.laid: dict[int, Tensor] = {}

    def exchange(self, rank: int, tensor: Tensor) -> list[Tensor]:
        """Return every member's tensor, by rank."""
        self.laid[rank] = tensor.clone()
        self.turn.wait()
        found = [self.laid[other] for other in sorted(self.laid)]
        self.turn.wait()
        return found


@dataclass(frozen=True)
class _Member(World):
    """One thread of a world of several."""

    table: _Table = field(default_factory=lambda: _Table(_SIZE))

    def broadcast(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(self.table.exchange(self.rank, tensor)[0])

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self.table.exchange(self.rank, tensor)).sum(0))

    def barrier(self) -> None:
        self.table.turn.wait()


def audit_together(charge: Charge, spec: GradientSpec, multiplicity: int) -> list[Finding]:
    """Return the findings about DP-SGD by two processes under `charge`, at a rate of a half.

    Args:
        charge: calibrated; its sigma is audited.
        spec: of the method.
        multiplicity: K of the method.
    """
    assert charge.sigma is not None
    short = replace(charge, rate=0.5, count=_STEPS, cap=None)
    own = replace(spec, start=0, strategy="loop", physical=None, splits=2, classes=1)

    def sums(present: bool, seed: int | None) -> Tensor:
        images = (canaries.some if present else canaries.nobody)(_CANARIES)
        return together(
            lambda world: canaries.train_canaries(images, short, own, multiplicity, NoiseSource(seed), world)
        ).sums

    hits = sums(True, 0) - sums(False, 0)
    apart = float(torch.minimum(hits.abs(), (hits - 1).abs()).max())
    release = f"{charge.name}, two processes"
    return [
        Finding(release, "canary", "contribution away from 0 or C, over C", apart, "at most 0.001", apart <= 1e-3),
        *audit_noise(release, list((sums(False, None) / charge.sigma).flatten().chunk(2))),
    ]


def together(work: Callable[[World], Training]) -> Training:
    """Return what the first of several processes makes of `work`, which all of them do at once."""
    table = _Table(_SIZE)

    def member(rank: int) -> Training:
        try:
            return work(_Member(rank, _SIZE, table=table))
        except BaseException:
            table.turn.abort()  # nobody waits for a member that failed
            raise

    with ThreadPoolExecutor(_SIZE) as pool:
        members = [pool.submit(member, rank) for rank in range(_SIZE)]
        return members[0].result()
