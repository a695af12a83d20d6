"""What faults of queries are planted into: the features of the lessons, and the stages from a query to a training."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from dpib import chain
from dpib.config import compose
from dpib.config.fingerprint import fingerprint
from dpib.data.catalog import find_card
from dpib.data.prepare import prepare
from dpib.diffusion.lessons.central import CentralLesson, CentralSettings, ClassSums
from dpib.diffusion.lessons.selected import Votes
from dpib.distributed import World
from dpib.follower import SilentLog
from dpib.privacy.audit.findings import Finding
from dpib.privacy.audit.sums import audit_sum
from dpib.privacy.events import Charge
from dpib.privacy.ledger import LEDGER, Account
from dpib.runner import Result, Stage
from dpib.sensitive import Sensitive
from dpib.stages.build import FINAL
from dpib.stages.context import Context
from dpib.stages.pretrain import pretrain
from dpib.stages.query import query
from dpib.stages.train import train
from dpib.synthesizer import Task
from tests.conftest import PRO, TINY_DIFFUSION

SHAPE, CLASSES, PUBLIC = (1, 8, 8), 4, 12
VOTES = Charge("votes", "gaussian", "made up", sigma=2.0, stage="query")
SUMS = Charge("sums", "gaussian", "made up", sigma=2.0, rate=0.2, count=5, stage="query")


class Pixels(nn.Module):
    """Scores of public classes by a few pixels of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("classes", torch.tensor(PUBLIC))

    def forward(self, x: Tensor) -> Tensor:
        return x.float().flatten(1)[:, :PUBLIC]


def queries() -> Iterator[list[Finding]]:
    """Yield the findings about the lessons' features, released one by one and by samples."""
    yield audit_sum(VOTES, Votes(Pixels(), 3, CLASSES, torch.device("cpu")), SHAPE, CLASSES)
    yield audit_sum(SUMS, ClassSums(SHAPE, CLASSES, 2), SHAPE, CLASSES)
    yield [_public_divisor()]


def _public_divisor() -> Finding:
    """Check that a central image moves by no more than its noise is made for, whatever the size of its class."""
    settings = CentralSettings(kind="central", samples=1, batch=40, noise_multiplier=2.0)
    lesson = CentralLesson(settings, Task(SHAPE, CLASSES, 0, torch.device("cpu")), "central")
    one, none = torch.zeros(1, CLASSES, 1, 4, 4), torch.zeros(1, CLASSES, 1, 4, 4)
    one[0, 0] = 1.0  # one white image, and its class has no other
    log = SilentLog(Path("nowhere"))
    bright, dark = (lesson.images({"sums": sums}, None, log).x[0].float().mean() for sums in (one, none))
    moved = float(bright - dark) / 255 * settings.batch / CLASSES
    return Finding("central", "sensitivity", "change of an image by its one record, times the public divisor", moved,
                   "at most 1.1", moved <= 1.1)  # fmt: skip


def lineage() -> Iterator[list[Finding]]:
    """Yield the findings about what a training states of the query before it, and which query it goes on from."""
    with _digits() as folder:
        config, card = compose({**TINY_DIFFUSION, **PRO, "epsilon": "10", "accountant": "rdp"})
        sensitive = Sensitive(config, card)

        def context(name: str) -> Context:
            artifacts, private = folder / name / "artifacts", folder / name / "private"
            for each in (artifacts, private):
                each.mkdir(parents=True)
            log = SilentLog(private / "snapshot.safetensors")
            return Context(config, card, torch.device("cpu"), artifacts, private, log, World())

        asked, learnt, trained = context("query"), context("pretrain"), context("train")
        query(asked, sensitive)
        pretrain(learnt, sensitive, asked.artifacts / FINAL)
        train(trained, sensitive, learnt.artifacts / FINAL)
        account = Account.parse((trained.artifacts / LEDGER).read_text())
        told = [(event.id.rpartition("/")[2], event.count) for event in account.events]
        right = told == [("central", 2), ("frequency", 1), ("dp-sgd", 4)]
        yield [Finding("training", "ledger", "states the query and itself, once each", float(right), "1", right)]
        keys = {_pretraining_key(config, card, run) for run in ("query-a", "query-b")}
        apart = len(keys) == 2
        yield [Finding("pretraining", "ledger", "is another one for another query", float(apart), "1", apart)]


def _pretraining_key(config: Any, card: Any, run: str) -> str:
    stages: list[Stage] = []
    with mock.patch.object(chain, "execute", lambda stage, *_: stages.append(stage)):
        chain._run_pretrain(config, card, None, chain.Before(query=Result(run, {})), None)  # type: ignore[arg-type]
    return fingerprint("pretrain", config, card, stages[0].inputs)


@contextmanager
def _digits() -> Iterator[Path]:
    """Yield a folder with a home and the bundled digits, which are where this process looks for them meanwhile."""
    with tempfile.TemporaryDirectory(prefix="dpib-audit-") as name:
        folder = Path(name)
        places = {"DPIB_HOME": str(folder / "home"), "DPIB_DATA": str(folder / "data")}
        with mock.patch.dict(os.environ, places):
            prepare(find_card("digits_28", folder / "data"), None, folder / "data", lambda _: None)
            yield folder
