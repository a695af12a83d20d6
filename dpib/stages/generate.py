"""Generate: draw the labelled synthetic set; post-processing, free of privacy cost."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dpib import __version__, checkpoint, grids, seeding
from dpib.atomic import replacing
from dpib.config import Config
from dpib.data.catalog import Card
from dpib.errors import UserError
from dpib.hardware import free_memory
from dpib.images import Images
from dpib.privacy.ledger import Account
from dpib.stages.build import build
from dpib.stages.context import Context
from dpib.synthesizer import Synthesizer

GEN = Path("gen") / "gen.npz"
SAMPLE = Path("gen") / "sample.png"
_LABEL_BYTES = 32  # of a label, its place and its copies


def generate(context: Context, account: Account, trained: Path) -> dict[str, float]:
    """Write `gen/gen.npz` with its statement, and `gen/sample.png`; return how many images were drawn.

    Args:
        context: the stage.
        account: the ledger of the training, which travels with the images.
        trained: checkpoint of the training.
    """
    config, classes = context.config, len(context.card.classes)
    require_memory(config, context.card)
    synthesizer = build(context)
    synthesizer.load_state_dict(checkpoint.load(trained))
    labels = choose_labels(config, classes, synthesizer)
    images = Images(draw(synthesizer, labels, context), labels)
    write(context.artifacts / GEN, images, statement_text(account, config.method))
    picture = grids.grid(grids.by_class(images, classes), 10)
    with replacing(context.artifacts / SAMPLE) as temporary:
        Image.fromarray(picture).save(temporary)
    context.log.say(f"generate: {len(images)} images")
    return {"generate/images": float(len(images))}


def require_memory(config: Config, card: Card) -> None:
    """Refuse more images than the free memory holds, before hours of work rather than after.

    Raises:
        UserError: saying how many fit.
    """
    # The images stand twice while the processes' shares are brought together.
    n, each = config.generate.images, 2 * math.prod(card.shape) + _LABEL_BYTES
    free = free_memory(torch.device("cpu"))
    if free is not None and n * each > free:
        raise UserError(
            f"generate.images={n}: they take {n * each / 1e9:.3g} GB of memory and {free / 1e9:.3g} GB are free: "
            f"at most {free // each} fit"
        )


def draw(synthesizer: Synthesizer, labels: Tensor, context: Context) -> Tensor:
    """Return uint8 images [n, c, h, w] in the labels' order, on every process.

    Every batch has a generator of its own, so that the images do not depend on how many processes
    share the batches out.
    """
    config, world = context.config, context.world
    images = torch.zeros(len(labels), *context.card.shape, dtype=torch.uint8)
    batches = list(enumerate(torch.arange(len(labels)).split(config.generate.batch)))
    mine = batches[world.rank :: world.size]
    for number, index in tqdm(mine, desc="generate", disable=None, leave=False):
        stream = seeding.generator(config.seed, "generate", number)
        images[index] = synthesizer.generate(labels[index], stream).x
    return world.all_reduce_sum(images.to(world.device)).cpu()


def choose_labels(config: Config, classes: int, synthesizer: Synthesizer) -> Tensor:
    """Return the labels to draw: as many of each class, or by the proportions that the method released.

    Raises:
        UserError: when proportions are asked for and the method released none.
    """
    n = config.generate.images
    if config.generate.labels == "balanced":
        return torch.arange(n) % classes
    proportions = synthesizer.class_proportions()
    if proportions is None:
        raise UserError(f"{config.method} releases no class proportions: use generate.labels=balanced")
    exact = proportions / proportions.sum() * n
    counts = exact.floor().long()
    # The images lost by rounding down go to the classes that lost most.
    counts[(exact - counts).argsort(descending=True)[: n - int(counts.sum())]] += 1
    ordered = torch.repeat_interleave(torch.arange(classes), counts)
    return ordered[torch.randperm(n, generator=seeding.generator(config.seed, "generate", "labels"))]


def statement_text(account: Account, method: str) -> str:
    """Return the statement that travels inside `gen.npz`: the ledger, and its total for people to read."""
    return json.dumps(
        {
            "made_by": f"dpib {__version__}, {method}",
            "epsilon": None if account.tainted else account.spent(),
            "delta": account.delta,
            "ledger": json.loads(account.text()),
        }
    )


def write(path: Path, images: Images, statement: str) -> None:
    """Write `x` uint8 [n, c, h, w], `y` int64 [n] and `statement` (JSON text), atomically."""
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, x=images.x.numpy(), y=images.y.numpy(), statement=np.asarray(statement))
