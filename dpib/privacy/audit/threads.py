"""Several processes for an audit: threads, which exchange tensors where processes would.

What is audited is who does what.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from dpib.distributed import World

T = TypeVar("T")
_SIZE = 2


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


def together(work: Callable[[World], T]) -> list[T]:
    """Return what each of two processes makes of `work`, which both do at once, by rank."""
    table = _Table(_SIZE)

    def member(rank: int) -> T:
        try:
            return work(_Member(rank, _SIZE, table=table))
        except BaseException:
            table.turn.abort()  # nobody waits for a member that failed
            raise

    with ThreadPoolExecutor(_SIZE) as pool:
        return [done.result() for done in [pool.submit(member, rank) for rank in range(_SIZE)]]
