"""Baseline: the same utility protocol trained on real images, without privacy and without an epsilon."""

import json
from pathlib import Path

import torch

from dpib.atomic import write_text
from dpib.config import Config
from dpib.data.catalog import Card
from dpib.errors import UserError
from dpib.privacy.ledger import Ledger
from dpib.privacy.vault import Predictor
from dpib.sensitive import Sensitive
from dpib.stages import judge
from dpib.stages.evaluate import REPORT, tester
from dpib.synthesizer import Log


def baseline(
    config: Config,
    card: Card,
    sensitive: Sensitive,
    device: torch.device,
    artifacts: Path,
    private: Path,
    log: Log,
) -> dict[str, float]:
    """Train the classifiers on the real training images and choose epochs by the real held-out ones.

    Raises:
        UserError: when nothing is held out, or yardstick=none.
    """
    if config.yardstick is None:
        raise UserError("the baseline is a figure on real images: it has no meaning with yardstick=none")
    train, val = sensitive.baseline()
    if len(val) == 0:
        raise UserError("the baseline chooses epochs on held-out images: set data.holdout")
    ledger = Ledger.open(private / "ledger.json", sensitive.account())
    clean: dict[str, float] = {}

    def score(candidate: str, predict: Predictor) -> None:
        clean[candidate] = float((predict(val.x) == val.y).sum())

    test = tester(sensitive.yardstick("test", ledger))
    found = judge.race(config, card, train, device, log, score, test)
    winners = found.best(clean)
    metrics = judge.utility_metrics(found, winners)
    write_text(artifacts / REPORT, json.dumps({"metrics": metrics, "selected": winners}, indent=2))
    return metrics
