"""DP-SGD (Abadi et al. 2016): Poisson-sampled, per-record clipped, noised gradients, one per logical step."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from dpib.distributed import World, unflatten
from dpib.images import Images
from dpib.precision import Precision
from dpib.privacy.events import Charge
from dpib.privacy.ledger import BudgetError
from dpib.privacy.per_record.autotune import Choice, choose
from dpib.privacy.per_record.base import LEAST_CLIP, RecordLoss, trainable
from dpib.privacy.per_record.draws import draw
from dpib.privacy.per_record.lowered import Lowered
from dpib.privacy.per_record.probes import Probes
from dpib.privacy.per_record.refuse import refuse
from dpib.privacy.per_record.state import versions
from dpib.privacy.rng import NoiseSource
from dpib.privacy.sampling import poisson

Strategy = Literal["auto", "loop", "vmap", "grouped", "joined", "hooks"]


class Gradients(NamedTuple):
    """The gradient of each parameter, in order, and the loss if it may be told."""

    of: list[Tensor]
    loss: Tensor | None


@dataclass(frozen=True)
class GradientSpec:
    """How a training takes its private gradients; nothing here changes what they cost.

    Args:
        clip: C, the largest norm that one record's gradient keeps.
        seed: of the utility randomness: a record's draws follow from (seed, step, record) alone.
        strategy: how per-record gradients are computed; all strategies give the same sum.
        physical: records at a time; none: as many as fit the free memory.
        splits: or the number of pieces that every logical batch is cut into.
        start: the first step, after a resume.
        classes: labels of the made-up images that the start-up check runs on.
        precision: of passes through the network; nothing that is clipped, summed or noised is less than float32.
    """

    clip: float
    seed: int
    strategy: Strategy = "auto"
    physical: int | None = None
    splits: int | None = None
    start: int = 0
    classes: int = 1
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        # Gradients are float32: the squares that a smaller norm is made of would vanish.
        if not LEAST_CLIP <= self.clip < float("inf"):
            raise ValueError(f"clip must be a number from {LEAST_CLIP:g}, got {self.clip}")
        if self.physical is not None and self.splits is not None:
            raise ValueError("give physical or splits, not both")
        for name in ("physical", "splits", "classes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class PrivateSteps:
    """One DP-SGD training: the sampler, the clip, the noise and the charge, which only work together."""

    images: Images
    charge: Charge
    loss: RecordLoss
    model: nn.Module
    spec: GradientSpec
    choice: Choice
    noise: NoiseSource
    world: World

    def __iter__(self) -> Iterator[Gradients]:
        """Yield (sum of clipped + sigma C N(0, I)) / (n rate) for every step that is paid for.

        Raises:
            BudgetError: when a step beyond the charge is asked for.
        """
        # The noise of a step does not depend on its records: it is drawn while they are worked on.
        with ThreadPoolExecutor(1) as aside:
            for step in range(self.spec.start, self.charge.count):
                members = self._members()
                noise = aside.submit(self._noise) if self.world.leads else None
                total = self.world.all_reduce_sum(self._clipped_sum(members, step))
                if noise is not None:
                    total += noise.result()
                yield Gradients(self._shared(total), None)
        raise BudgetError(f"{self.charge.name!r} is charged for {self.charge.count} steps and all are made")

    def _members(self) -> Tensor:
        """Return the positions of this rank's share of the step's records: every size-th one."""
        n = len(self.images)
        mask = torch.zeros(n, dtype=torch.uint8)
        if self.world.leads:
            mask = poisson(self.noise, n, self.charge.rate, self.charge.cap).to(torch.uint8)
        if self.world.size > 1:
            mask = self.world.broadcast(mask.to(self.world.device)).cpu()
        return mask.nonzero().flatten()[self.world.rank :: self.world.size]

    def _noise(self) -> Tensor:
        """Return the noise of a step, float64, where the sum is."""
        assert self.charge.sigma is not None
        parameters = trainable(self.model)
        noise = self.noise.normal((sum(p.numel() for p in parameters),))
        return noise.mul_(self.charge.sigma * self.spec.clip).to(parameters[0].device)

    def _clipped_sum(self, members: Tensor, step: int) -> Tensor:
        """Return the flat sum of clipped gradients, float64: its rounding must not depend on the chunks."""
        parameters = trainable(self.model)
        device = parameters[0].device
        total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64, device=device)
        before = versions(self.model)
        # No forward pass for an empty batch: many layers cannot run one. It is noised like any other.
        for piece in members.split(self._physical(len(members))) if len(members) else ():
            rows = draw(self.loss, self.images, piece, self.spec.seed, step, device)
            parts = self.choice.clipped_sum(self.model, self.loss, rows, self.spec.clip)
            total += torch.cat([part.flatten() for part in parts])
        # The check at the start ran on made-up images: a rare branch may have waited for these.
        for name, version in versions(self.model).items():
            if before.get(name) != version:
                raise BudgetError(f"{name} changed in a forward pass of {self.charge.name!r}; nothing was released")
        return total

    def _physical(self, members: int) -> int:
        return -(-members // self.spec.splits) if self.spec.splits else self.choice.physical

    def _shared(self, total: Tensor) -> list[Tensor]:
        """Return rank 0's noised sum over the public expected batch, shaped like the parameters, on every rank."""
        if self.world.leads and not torch.isfinite(total).all():
            raise BudgetError(f"a step of {self.charge.name!r} overflowed; nothing was released")
        parameters = trainable(self.model)
        flat = self.world.broadcast((total / (len(self.images) * self.charge.rate)).to(parameters[0].dtype))
        return unflatten(flat, parameters)


def prepare(
    images: Images,
    charge: Charge,
    loss: RecordLoss,
    model: nn.Module,
    spec: GradientSpec,
    noise: NoiseSource,
    world: World,
) -> PrivateSteps:
    """Check the model and choose a strategy, on made-up images of the right shape; no record is read.

    Raises:
        UserError: when the model, or the strategy asked for, cannot keep records apart.
    """
    device = next(model.parameters()).device

    probes = Probes(loss, images.shape, spec.classes, device)
    with torch.random.fork_rng():
        refuse(model, loss, probes)
        choice = _agreed(model, loss, probes, spec, world)
    used = Lowered(loss) if choice.lower else loss
    return PrivateSteps(images, charge, used, model, spec, choice, noise, world)


def _agreed(model: nn.Module, loss: RecordLoss, probes: Probes, spec: GradientSpec, world: World) -> Choice:
    """Return this process's choice; where the precision is found by timing, rank 0 finds it for all."""
    timed = spec.precision == "auto" and world.size > 1
    if timed and not world.leads:
        spec = replace(spec, precision="bf16" if world.share() == "bf16" else "fp32")
    choice = choose(model, loss, probes, spec.strategy, spec.physical, spec.precision)
    if timed and world.leads:
        world.share("bf16" if choice.lower else "fp32")
    return choice
