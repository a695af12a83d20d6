"""Baseline: the same utility protocol trained on real images, without privacy and without an epsilon."""

import json

from dpib.atomic import write_text
from dpib.errors import UserError
from dpib.privacy.ledger import Ledger
from dpib.privacy.mechanisms import Predictor
from dpib.sensitive import Sensitive
from dpib.stages import judge
from dpib.stages.context import Context
from dpib.stages.evaluate import REPORT, tester


def baseline(context: Context, sensitive: Sensitive) -> dict[str, float]:
    """Train the classifiers on the real training images and choose epochs by the real held-out ones.

    Raises:
        UserError: when nothing is held out, or yardstick=none.
    """
    if context.config.yardstick is None:
        raise UserError("the baseline is a figure on real images: it has no meaning with yardstick=none")
    train, val = sensitive.baseline()
    if len(val) == 0:
        raise UserError("the baseline chooses epochs on held-out images: set data.holdout")
    ledger = Ledger.open(context.private / "ledger.json", sensitive.account())
    clean: dict[str, float] = {}

    def score(candidate: str, predict: Predictor) -> None:
        clean[candidate] = float((predict(val.x) == val.y).sum())

    test = tester(sensitive.yardstick("test", ledger))
    found = judge.race(context, train, score, test)
    winners = found.best(clean)
    judge.test_winners(context, found, winners, test)
    metrics = judge.utility_metrics(found, winners)
    write_text(context.artifacts / REPORT, json.dumps({"metrics": metrics, "selected": winners}, indent=2))
    return metrics
