"""What faults of a GAN are planted into: the pairs that its critic learns from, and what its generator is told."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch

from dpib.images import Images
from dpib.methods.gan import Gan, GanSettings
from dpib.privacy.audit import records
from dpib.privacy.audit.findings import Finding
from dpib.privacy.audit.steps import audit_steps
from dpib.privacy.errors import BudgetError
from dpib.privacy.rng import NoiseSource
from dpib.synthesizer import Task
from tests.quiet import Quiet

SHAPE, CLASSES, N = (1, 8, 8), 4, 64


def gan() -> Iterator[list[Finding]]:
    """Yield the findings about the critic's steps, and about what the generator is told beside the critic."""
    yield [_told_apart()]
    method = _method()
    (charge,) = method.plan(N)
    spec = method.settings.train.spec(method.task, 0)
    yield audit_steps(replace(charge, sigma=1.0), method.loss, method.critic, spec, SHAPE, CLASSES)


def _method() -> Gan:
    settings = GanSettings.model_validate(
        {
            "network": {"name": "small", "latent": 4, "width": 4, "hidden": 20},
            "critic": {"width": 4},
            "adversary": {"lr": 0.01, "batch": 8, "every": 2},
            "pretrain": {"steps": 1, "batch": 8, "lr": 0.01},
            "train": {"steps": 4, "batch": 16, "lr": 0.01, "clip": 0.01, "strategy": "vmap"},
        }
    )
    return Gan(settings, Task(SHAPE, CLASSES, 0, torch.device("cpu")))


def _told_apart() -> Finding:
    """Compare generators of two image sets under noise without end: any difference was told beside the critic."""
    trained = []
    for level in (0, 255):
        method = _method()
        plan = [replace(charge, sigma=1e15) for charge in method.plan(N)]
        images = Images(torch.full((N, *SHAPE), level, dtype=torch.uint8), torch.arange(N) % CLASSES)
        with records.vault_for(images, plan, NoiseSource(1)) as (vault, _), suppress(BudgetError):
            method.train(vault, Quiet())
        trained.append(torch.cat([p.detach().flatten() for p in method.generator.parameters()]))
    apart = float((trained[0] - trained[1]).abs().max())
    check = "weights that differ by the images, under noise without end"
    return Finding("GAN", "noise", check, apart, "0", apart == 0)
