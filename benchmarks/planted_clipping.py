"""Faults in what bounds a record's share, each as the pieces that it replaces: chunks, clip factors, strategies."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import audited
from benchmarks.planted import Patch
from dpib.images import Images
from dpib.privacy import gradients, vault
from dpib.privacy.gradients import PrivateSteps
from dpib.privacy.per_record import autotune, base, draws, loop, vmap


def pieces_overlap() -> list[Patch]:
    sound = PrivateSteps._clipped_sum

    def faulty(self: PrivateSteps, members: Tensor, step: int) -> Tensor:
        end = self._physical(len(members))
        # The record at the end of the first piece begins the second one, too.
        return sound(self, torch.cat([members, members[end - 1 : end]]) if end < len(members) else members, step)

    return [(PrivateSteps, "_clipped_sum", faulty)]


def chunks_overlap() -> list[Patch]:
    def faulty(self: Images, size: int) -> Iterator[Images]:
        for start in range(0, len(self), size):
            yield self.take(slice(max(0, start - 1), start + size))

    return [(Images, "chunks", faulty)]


def factors(faulty: Callable[[Tensor, float], Tensor]) -> list[Patch]:
    """Return a fault in the clip factors, wherever they are used."""
    return [(module, "factors", faulty) for module in (base, loop)]


def no_clipping() -> list[Patch]:
    return factors(lambda norms, clip: torch.ones_like(norms))


def bf16_clipping() -> list[Patch]:
    # The factor is rounded to eight bits, and half of all factors are rounded up.
    return factors(lambda norms, clip: (clip / norms).clamp(max=1).bfloat16().to(norms) * torch.isfinite(norms))


def clipped_in_bf16() -> list[Patch]:
    def faulty(per_record: list[Tensor], clip: float) -> list[Tensor]:
        # As under an autocast that is left too late: norms, factors and sums of eight bits.
        flat = [g.flatten(1).bfloat16() for g in per_record]
        norms = torch.stack([torch.nan_to_num(f, torch.inf).norm(dim=1) for f in flat]).norm(dim=0)
        weights, kept = (clip / norms).clamp(max=1), torch.isfinite(norms)
        return [(weights[kept] @ f[kept]).float().view(g.shape[1:]) for f, g in zip(flat, per_record, strict=True)]

    return [(vmap, "clip_and_sum", faulty), (autotune, "_trouble", lambda *_: None)]


def median_clipping() -> list[Patch]:
    return factors(lambda norms, clip: torch.where(torch.isfinite(norms), (norms.nanmedian() / norms).clamp(max=1), 0))


def nan_let_through() -> list[Patch]:
    def faulty(per_record: list[Tensor], clip: float) -> list[Tensor]:
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in per_record]).norm(dim=0)
        return [torch.tensordot((clip / norms).clamp(max=1), g, 1) for g in per_record]

    return [(vmap, "clip_and_sum", faulty)]


def layer_by_layer() -> list[Patch]:
    def faulty(per_record: list[Tensor], clip: float) -> list[Tensor]:
        return [part for g in per_record for part in base.clip_and_sum([g], clip)]

    # The start-up check would refuse it; without that check an audit must still see it.
    return [(vmap, "clip_and_sum", faulty), (autotune, "_trouble", lambda *_: None)]


def strategy(faulty: base.ClippedSum) -> list[Patch]:
    """Return a fault in a strategy, together with the loss of the check that would refuse it."""
    return [(module, "clipped_sum", faulty) for module in (vmap, loop)] + [(autotune, "_trouble", lambda *_: None)]


def draws_clipped_apart() -> list[Patch]:
    sound = vmap.clipped_sum

    def faulty(m: nn.Module, loss: base.RecordLoss, rows: base.Rows, clip: float) -> list[Tensor]:
        # Each of the K draws is taken for a record of its own.
        return sound(m, loss, tuple(row.flatten(0, 1).unsqueeze(1) for row in rows), clip)

    return strategy(faulty)


def averaged_before_clipping() -> list[Patch]:
    sound = vmap.clipped_sum

    def faulty(m: nn.Module, loss: base.RecordLoss, rows: base.Rows, clip: float) -> list[Tensor]:
        count = len(rows[0])
        return [count * part for part in sound(m, loss, tuple(r.flatten(0, 1)[None] for r in rows), clip)]

    return strategy(faulty)


def draws_mixed() -> list[Patch]:
    sound = draws.draw

    def faulty(*arguments: Any) -> base.Rows:
        rows = sound(*arguments)
        return tuple(row.transpose(0, 1).reshape(row.shape) for row in rows)

    return [(gradients, "draw", faulty)]


def records_mixed() -> list[Patch]:
    """A layer that normalises over the batch, the check of layers off, and a forward pass over the whole batch."""

    def whole_batch(m: nn.Module, loss: base.RecordLoss, rows: base.Rows, clip: float) -> list[Tensor]:
        parameters, b = base.trainable(m), len(rows[0])
        values = loss.per_row(MixingRecords(m), *(row.flatten(0, 1) for row in rows)).view(b, -1).mean(1)
        each = [torch.autograd.grad(v, parameters, retain_graph=True) for v in values]
        return base.clip_and_sum([torch.stack(parts) for parts in zip(*each, strict=True)], clip)

    return strategy(whole_batch)


class MixingRecords(nn.Module):
    """The model behind a batch normalisation without running statistics."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(F.batch_norm(x, None, None, training=True))


class Longer(audited.Pixels):
    """A feature that is longer than it says."""

    def weighted_sum(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        return 1.08 * super().weighted_sum(x, y, weights)


def feature(made: type[audited.Pixels]) -> list[Patch]:
    return [(audited, "Pixels", made)]


def mean_by_class() -> list[Patch]:
    sound = vault.clipped_sum

    def faulty(images: Images, *arguments: Any) -> Tensor:
        total = sound(images, *arguments)
        counts = total[:, -1:].clamp(min=1e-3) * 2**0.5
        return total / counts * len(images)

    return [(vault, "clipped_sum", faulty)]


def divided_by_count() -> list[Patch]:
    sound = vault.clipped_sum

    def faulty(images: Images, *arguments: Any) -> Tensor:
        total = sound(images, *arguments)
        return total / total[:, -1].sum().clamp(min=1e-3) * len(images) / 2**0.5

    return [(vault, "clipped_sum", faulty)]
