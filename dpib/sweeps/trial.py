"""One trial: a synthesizer (or none), the classifiers on its images, and a score that may be seen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dpib import checkpoint
from dpib.atomic import write_text
from dpib.data.synthetic import read_gen
from dpib.images import Images
from dpib.metrics.utility import accuracy, train_classifier
from dpib.privacy import statement
from dpib.privacy.events import Charge, Event, Plan
from dpib.privacy.ledger import LEDGER, STATEMENT, Account, Ledger
from dpib.privacy.mechanisms import Predictor
from dpib.sensitive import Sensitive
from dpib.stages import judge
from dpib.stages.build import FINAL
from dpib.stages.context import Context
from dpib.stages.generate import GEN, statement_text, write

CLASSIFIER = Path("checkpoints") / "classifier.safetensors"
Stop = Callable[[int, float], bool]
"""Told a step and the free score there (accuracy on held-out synthetic images); says whether to give up."""


@dataclass(frozen=True)
class Fitted:
    """The classifier of a trial: the best of the configured ones on held-out synthetic images."""

    name: str
    network: nn.Module
    predict: Predictor
    synthetic: float


class OwnPurse:
    """Held-out images that have paid for nothing but this trial: those of a public proxy."""

    name = "proxy"

    def record(self, events: Sequence[Event], account: Account) -> None:
        """Forget: nobody will ask."""

    def continued(self, account: Account) -> Account:
        """Return the account as it is."""
        return account


def spent_on(plan: tuple[Charge, ...], account: Account) -> Account:
    """Return a fresh account in which one training's charges stand already."""
    events = Plan(plan).events("train", account.scopes["train"], account.relation)
    return account.model_copy(update={"events": events})


def restate(context: Context, account: Account) -> None:
    """Write `account`, all that is known to have been spent, into every artifact of a trial that tells what it cost."""
    artifacts = context.artifacts
    write_text(artifacts / LEDGER, account.text())
    write_text(artifacts / STATEMENT, statement.render(account))
    if (artifacts / FINAL).is_file():
        checkpoint.save(artifacts / FINAL, checkpoint.load(artifacts / FINAL), ledger=account.text())
    if (artifacts / GEN).is_file():
        images, _ = read_gen(artifacts / GEN, context.card)
        write(artifacts / GEN, images, statement_text(account, context.config.method))


def fit(context: Context, images: Images, stop: Stop) -> Fitted | None:
    """Train the configured classifiers on `images` and return the best, or None once `stop` says so.

    The last epoch stands for each classifier: its number is a key of the search like any other.
    """
    fitted, held = judge.hold_out(context.config, images)
    best: Fitted | None = None
    step = 0
    for name in judge.names(context.config.eval):
        last = None
        network = judge.network(context, name)
        schedule, seed = context.config.eval.schedule, context.config.seed
        for last in train_classifier(network, fitted, schedule, seed, name, context.device, context.lower):
            value = accuracy(last.predict(held.x) == held.y)
            context.log.curve(f"utility/{name}/loss", last.loss, last.number)
            context.log.curve(f"utility/{name}/synthetic_accuracy", value, last.number)
            if stop(step, value):
                return None
            step += 1
        assert last is not None
        if best is None or value > best.synthetic:
            best = Fitted(name, last.network, last.predict, value)
    assert best is not None
    return best


def keep(path: Path, fitted: Fitted) -> None:
    """Write a trial's classifier to `path`."""
    checkpoint.save(path, {"classifier": fitted.name, "network": dict(fitted.network.state_dict())})


def load(context: Context, path: Path) -> Predictor:
    """Return the classifier that `keep` wrote, as a predictor; `context.config` is the trial's."""
    state: dict[str, Any] = checkpoint.load(path)
    return judge.restored(context, state["classifier"], state["network"])


def release(context: Context, sensitive: Sensitive, charge: Charge, account: Account, predict: Predictor) -> float:
    """Return the noised number of held-out images that `predict` gets right, under a charge already made."""
    ledger = Ledger(account, context.private / "ledger.json")
    return sensitive.vault("val", ledger, Plan((charge,)), context.private).release_count(charge.name, predict)
