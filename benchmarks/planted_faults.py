"""Faults in the privacy code, each as the pieces that it replaces: noise, sampler, clipping, vault, ledger."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import audited
from dpib.images import Images
from dpib.privacy import gradients, rng, vault
from dpib.privacy.events import Charge
from dpib.privacy.gradients import PrivateSteps
from dpib.privacy.ledger import Ledger
from dpib.privacy.per_record import autotune, base, draws, loop, vmap
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault

Patch = tuple[Any, str, Any]
"""An object, the name of a part of it, and the faulty part."""


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
    sound = NoiseSource.uniform

    def faulty(self: NoiseSource, n: int) -> Any:
        self._draws %= after
        return sound(self, n)

    return [(NoiseSource, "uniform", faulty)]


def counts_without_noise(kind: str) -> list[Patch]:
    sound = Vault.release_count

    def faulty(self: Vault, *arguments: Any) -> float:
        with mock.patch.object(NoiseSource, kind, return_value=torch.zeros(1)):
            return sound(self, *arguments)

    return [(Vault, "release_count", faulty)]


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


def mask_repeats(after: int) -> list[Patch]:
    sound = gradients.poisson
    kept: dict[tuple[int, int], tuple[NoiseSource, Tensor]] = {}
    calls: dict[int, int] = {}

    def faulty(noise: NoiseSource, *arguments: Any) -> Tensor:
        call = calls[id(noise)] = calls.get(id(noise), -1) + 1
        return kept.setdefault((id(noise), call % after), (noise, sound(noise, *arguments)))[1]

    return sampler(faulty)


def factors(faulty: Callable[[Tensor, float], Tensor]) -> list[Patch]:
    """Return a fault in the clip factors, wherever they are used."""
    return [(module, "factors", faulty) for module in (base, loop)]


def no_clipping() -> list[Patch]:
    return factors(lambda norms, clip: torch.ones_like(norms))


def bf16_clipping() -> list[Patch]:
    # The factor is rounded to eight bits, and half of all factors are rounded up.
    return factors(lambda norms, clip: (clip / norms).clamp(max=1).bfloat16().to(norms) * torch.isfinite(norms))


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


def drawn_again() -> list[Patch]:
    return [(Vault, "_finished", lambda self, name, index=0: None)]


def laplace_scaled(factor: float) -> list[Patch]:
    laplace = NoiseSource.laplace
    return [(NoiseSource, "laplace", lambda self, n, scale: laplace(self, n, scale) * factor)]
