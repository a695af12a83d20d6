"""Generate: draw the labelled synthetic set; post-processing, free of privacy cost."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dpib import __version__, checkpoint, grids, seeding
from dpib.atomic import replacing
from dpib.config import Config
from dpib.errors import UserError
from dpib.images import Images
from dpib.privacy.ledger import Account
from dpib.stages.context import Context
from dpib.stages.pretrain import build
from dpib.synthesizer import Synthesizer

GEN = Path("gen") / "gen.npz"
SAMPLE = Path("gen") / "sample.png"


def generate(context: Context, account: Account, trained: Path) -> dict[str, float]:
    """Write `gen/gen.npz` with its statement, and `gen/sample.png`; return how many images were drawn.

    Args:
        context: the stage.
        account: the ledger of the training, which travels with the images.
        trained: checkpoint of the training.
    """
    config, classes = context.config, len(context.card.classes)
    synthesizer = build(context)
    synthesizer.load_state_dict(checkpoint.load(trained))
    labels = choose_labels(config, classes, synthesizer)
    stream = seeding.generator(config.seed, "generate")
    pieces = tqdm(labels.split(config.generate.batch), desc="generate", disable=None, leave=False)
    images = Images(torch.cat([synthesizer.generate(piece, stream).x for piece in pieces]), labels)
    write(context.artifacts / GEN, images, statement_text(account, config.method))
    picture = grids.grid(grids.by_class(images, classes), 10)
    with replacing(context.artifacts / SAMPLE) as temporary:
        Image.fromarray(picture).save(temporary)
    context.log.say(f"generate: {len(images)} images")
    return {"generate/images": float(len(images))}


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
