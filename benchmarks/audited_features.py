"""What faults of mean embeddings are planted into: records' features by several maps, and the steps' own releases."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from dpib import seeding
from dpib.images import Images
from dpib.kernels.embedding import embedding
from dpib.methods.kernel import KernelSettings, MeanEmbedding
from dpib.privacy.audit import records
from dpib.privacy.audit.findings import Finding
from dpib.privacy.audit.sums import audit_sum
from dpib.privacy.events import Charge
from dpib.privacy.rng import NoiseSource
from dpib.registry import chosen
from dpib.synthesizer import Task
from tests.quiet import Quiet

SHAPE, CLASSES = (1, 8, 8), 4
CPU = torch.device("cpu")
NTK = {"kind": "ntk", "hidden": [6], "count_weight": 0.5}
FOURIER = {"kind": "fourier", "dimension": 40, "bandwidths": [20.0]}
JOINED = {"kind": "joined", "maps": [FOURIER, FOURIER], "shares": [0.5, 0.5]}


def features() -> Iterator[list[Finding]]:
    """Yield the findings about the embedding of a record by each kind of map."""
    for told in (NTK, JOINED):
        feature = embedding(chosen("features")(told), SHAPE, CLASSES, seeding.generator(0, "w"), CPU)  # type: ignore[arg-type]
        yield audit_sum(Charge(str(told["kind"]), "gaussian", "made up", sigma=2.0), feature, SHAPE, CLASSES)


def per_step() -> Iterator[list[Finding]]:
    """Yield the findings about the releases of a generator's steps, and about what else its training is told."""
    method = _method()
    (charge,) = method.plan(64)
    yield audit_sum(replace(charge, sigma=2.0), method._features("train"), SHAPE, CLASSES)
    yield [_told_apart()]


def _method() -> MeanEmbedding:
    fit: dict[str, Any] = {"steps": 5, "batch": 8, "lr": 0.01}
    settings = KernelSettings(
        features=FOURIER,  # type: ignore[arg-type]
        network={"name": "small", "latent": 4, "width": 4, "hidden": 20},  # type: ignore[arg-type]
        pretrain=fit,  # type: ignore[arg-type]
        train={**fit, "release": "per_step", "records": 16},  # type: ignore[arg-type]
    )
    return MeanEmbedding(settings, Task(SHAPE, CLASSES, 0, CPU))


def _told_apart() -> Finding:
    """Compare generators of two image sets under noise without end: any difference was told without noise."""
    trained = []
    for level in (0, 255):
        method = _method()
        plan = [replace(charge, sigma=1e15) for charge in method.plan(64)]
        images = Images(torch.full((64, *SHAPE), level, dtype=torch.uint8), torch.arange(64) % CLASSES)
        with records.vault_for(images, plan, NoiseSource(1)) as (vault, _), suppress(KeyError):
            method.train(vault, Quiet())
        trained.append(torch.cat([p.detach().flatten() for p in method.generator.network.parameters()]))
    apart = float((trained[0] - trained[1]).abs().max())
    check = "weights that differ by the images, under noise without end"
    return Finding("embedding", "noise", check, apart, "0", apart == 0)
