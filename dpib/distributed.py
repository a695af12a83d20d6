"""The processes of one run: one by default, several under torchrun (gloo on CPU, NCCL on GPU)."""

import atexit
import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from dpib.errors import UserError


@dataclass(frozen=True)
class World:
    """This process among `size` of them; alone, every operation is the identity."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls, device: torch.device | None = None) -> "World":
        """Return the world that torchrun's environment describes, or a world of one process.

        Args:
            device: where this process computes; none: its own GPU if there are GPUs, else the CPU.

        Raises:
            UserError: when torchrun's variables are there but incomplete.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
        if device is None:
            device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
        if size == 1:
            return cls(0, 1, device)
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise UserError(f"WORLD_SIZE={size} but {missing[0]} is not set: start the processes with torchrun")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        world = cls(rank, size, device)
        if not dist.is_initialized():
            # This module's functions have the group of all processes as a default argument. Imported later, as
            # optimizers do, it would keep that group beyond `leave`, and the group's threads into the interpreter's
            # end, where the one that then lets go of a tensor aborts the process.
            importlib.import_module("torch.distributed.nn.functional")
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=size)
            atexit.register(world.leave)
        return world

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which alone draws noise, writes and tracks."""
        return self.rank == 0

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Overwrite `tensor` with rank 0's on every rank, and return it."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)
        return tensor

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Overwrite `tensor` with its sum over ranks on every rank, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_reduce_sums(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the sum over ranks of each tensor, all in one message: many small ones take longer.

        Args:
            tensors: of one dtype, and on this process's device.
        """
        if self.size == 1:
            return tensors
        return unflatten(self.all_reduce_sum(torch.cat([tensor.flatten() for tensor in tensors])), tensors)

    def share(self, text: str = "") -> str:
        """Return rank 0's text on every rank; what others give is ignored."""
        if self.size == 1:
            return text
        content = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        length = self.broadcast(torch.tensor(len(content), device=self.device))
        if not self.leads:
            content = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        return bytes(self.broadcast(content).tolist()).decode()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let this process compute with the threads of all processes of its machine, which have nothing to do."""
        own = torch.get_num_threads()
        torch.set_num_threads(own * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        try:
            yield
        finally:
            torch.set_num_threads(own)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """End the process group that `join` began, and its threads; the end of the process does it otherwise."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def unflatten(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return consecutive pieces of a vector, shaped like the tensors of `like`, which fill it."""
    pieces = flat.split([tensor.numel() for tensor in like])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, like, strict=True)]
