"""Faults planted in the privacy code, and which audit catches each.

    python -m benchmarks.audit_mutations

Each fault replaces a piece of the code that runs in production: of the noise, the sampler, the clipping, the vault or
the ledger. The same audits that find nothing on the sound code must find it. The table is printed as Markdown.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpib.errors import UserError
from dpib.privacy import gradients, rng
from dpib.privacy.audit.canaries import audit_canaries
from dpib.privacy.audit.findings import Finding, failed
from dpib.privacy.audit.selection import audit_selection
from dpib.privacy.audit.steps import audit_steps
from dpib.privacy.audit.sums import audit_sum
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec, PrivateSteps
from dpib.privacy.ledger import Ledger
from dpib.privacy.per_record import autotune, base, draws, loop, vmap
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault

SHAPE, CLASSES = (1, 8, 8), 4
STEPS = Charge("steps", "gaussian", "made up", sigma=1.0, rate=0.1, count=100)
SUM = Charge("sum", "gaussian", "made up", sigma=2.0)
SPEC = GradientSpec(clip=0.01, seed=0, strategy="vmap")

Patch = tuple[Any, str, Any]


class Net(nn.Module):
    """A convolution, a group norm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Noisy:
    """Cross-entropy of K noised copies of an image."""

    multiplicity = 4

    def rows(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        noise = torch.randn(4, *x.shape[1:], generator=generator)
        return x.float() / 255 + noise, y.expand(4)

    def per_row(self, model: nn.Module, *rows: Tensor) -> Tensor:
        return F.cross_entropy(model(rows[0]), rows[1], reduction="none")


class Pixels:
    """The image and a constant, by class, of norm at most 1."""

    def rows(self, x: Tensor) -> Tensor:
        pixels = x.float().flatten(1) / 255 / 8
        return torch.cat([pixels, torch.ones(len(x), 1)], 1) / 2**0.5

    def norms(self, x: Tensor, y: Tensor) -> Tensor:
        return self.rows(x).norm(dim=1)

    def weighted_sum(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        return (F.one_hot(y, CLASSES).T.float() * weights.float()) @ self.rows(x)


def model() -> nn.Module:
    """Return the audited network, the same every time."""
    torch.manual_seed(0)
    return Net()


# --- the audits, cheapest first


def steps() -> Iterator[list[Finding]]:
    """Yield the findings about DP-SGD, layer by layer."""
    yield audit_steps(STEPS, Noisy(), model(), SPEC, SHAPE, CLASSES)
    yield audit_canaries(STEPS, SPEC, 4, 5000)


def sums() -> Iterator[list[Finding]]:
    """Yield the findings about a released sum."""
    yield audit_sum(SUM, Pixels(), SHAPE, CLASSES)


def selections() -> Iterator[list[Finding]]:
    """Yield the findings about selection."""
    yield audit_selection("zero_out")


# --- the faults


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


class Longer(Pixels):
    """A feature that is longer than it says."""

    def weighted_sum(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        return 1.08 * super().weighted_sum(x, y, weights)


def feature(made: type[Pixels]) -> list[Patch]:
    return [(__import__(__name__, fromlist=["Pixels"]), "Pixels", made)]


def mean_by_class() -> list[Patch]:
    sound = Vault._clipped_sum

    def faulty(self: Vault, *arguments: Any) -> Tensor:
        total = sound(self, *arguments)
        counts = total[:, -1:].clamp(min=1e-3) * 2**0.5
        return total / counts * len(self._images)

    return [(Vault, "_clipped_sum", faulty)]


def divided_by_count() -> list[Patch]:
    sound = Vault._clipped_sum

    def faulty(self: Vault, *arguments: Any) -> Tensor:
        total = sound(self, *arguments)
        return total / total[:, -1].sum().clamp(min=1e-3) * len(self._images) / 2**0.5

    return [(Vault, "_clipped_sum", faulty)]


def drawn_again() -> list[Patch]:
    return [(Vault, "_finished", lambda self, name: None)]


def laplace_scaled(factor: float) -> list[Patch]:
    laplace = NoiseSource.laplace
    return [(NoiseSource, "laplace", lambda self, n, scale: laplace(self, n, scale) * factor)]


Fault = tuple[Callable[[], Iterator[list[Finding]]], Callable[[], list[Patch]]]

FAULTS: dict[str, Fault] = {
    "DP-SGD: noise off": (steps, lambda: scaled(0.0)),
    "DP-SGD: half the noise (averaged over four ranks)": (steps, lambda: scaled(0.5)),
    "DP-SGD: noise over the root of 2": (steps, lambda: scaled(2**-0.5)),
    "DP-SGD: a tenth of the noise missing": (steps, lambda: scaled(0.9)),
    "DP-SGD: noise scaled by 1/B": (steps, lambda: scaled(1 / 40)),
    "DP-SGD: noise on half the rows": (steps, half_the_rows),
    "DP-SGD: uniform noise of the right variance": (steps, uniform),
    "DP-SGD: noise from a fixed key": (steps, fixed_key),
    "DP-SGD: noise of the first step reused": (steps, reused),
    "DP-SGD: clipping off": (steps, no_clipping),
    "DP-SGD: clipping layer by layer": (steps, layer_by_layer),
    "DP-SGD: K draws clipped apart": (steps, draws_clipped_apart),
    "DP-SGD: batch averaged before clipping": (steps, averaged_before_clipping),
    "DP-SGD: draws of records mixed up": (steps, draws_mixed),
    "DP-SGD: batch normalisation": (steps, records_mixed),
    "DP-SGD: clip factor in bfloat16": (steps, bf16_clipping),
    "DP-SGD: clip bound from the batch's median": (steps, median_clipping),
    "DP-SGD: NaN record let through": (steps, nan_let_through),
    "DP-SGD: shuffled batches": (steps, shuffled),
    "DP-SGD: batches of fixed size": (steps, fixed_size),
    "DP-SGD: sampling rate doubled": (steps, rate_doubled),
    "DP-SGD: records chosen by a public seed": (steps, public_sampler),
    "DP-SGD: divided by the private batch size": (steps, private_divisor),
    "DP-SGD: one step more than charged": (steps, one_step_more),
    "DP-SGD: charged for half the steps": (steps, charged_for_half),
    "DP-SGD: not charged": (steps, not_charged),
    "sum: noise off": (sums, lambda: scaled(0.0)),
    "sum: half the noise": (sums, lambda: scaled(0.5)),
    "sum: a tenth of the noise missing": (sums, lambda: scaled(0.9)),
    "sum: noise divided by n twice": (sums, lambda: scaled(1 / 500)),
    "sum: noise on half the rows": (sums, half_the_rows),
    "sum: uniform noise of the right variance": (sums, uniform),
    "sum: noise from a fixed key": (sums, fixed_key),
    "sum: features longer than they say": (sums, lambda: feature(Longer)),
    "sum: mean by class": (sums, mean_by_class),
    "sum: divided by the private count": (sums, divided_by_count),
    "sum: drawn again under one charge": (sums, drawn_again),
    "sum: not charged": (sums, not_charged),
    "selection: noise off": (selections, lambda: laplace_scaled(0.0)),
    "selection: half the noise": (selections, lambda: laplace_scaled(0.5)),
    "selection: not charged": (selections, not_charged),
}


@contextmanager
def planted(patches: list[Patch]) -> Iterator[None]:
    """Replace the named pieces of the privacy code inside the block."""
    with ExitStack() as stack:
        for owner, name, faulty in patches:
            stack.enter_context(mock.patch.object(owner, name, faulty))
        yield


def caught_by(name: str) -> str | None:
    """Return the layer and check that catch a fault, or None if nothing does."""
    audit, fault = FAULTS[name]
    with planted(fault()):
        try:
            for findings in audit():
                if wrong := failed(findings):
                    return f"{wrong[0].layer}: {wrong[0].check} ({wrong[0].value:.4g})"
        except UserError as error:
            return f"the engine itself: {error}"
    return None


@click.command()
def main() -> None:
    """Print which layer catches which fault, and in how many seconds."""
    begun = time.perf_counter()
    for audit in (steps, sums, selections):
        wrong = failed([finding for findings in audit() for finding in findings])
        assert not wrong, wrong
    print(f"Sound code: no alarm, all audits in {time.perf_counter() - begun:.1f} s\n")
    print("| fault | caught by | s |\n|---|---|---|")
    for name in FAULTS:
        begun = time.perf_counter()
        print(f"| {name} | {caught_by(name) or '**missed**'} | {time.perf_counter() - begun:.1f} |", flush=True)


if __name__ == "__main__":
    main()
