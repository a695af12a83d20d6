"""All stages of one training, untracked and in a folder of their own: sweeps and their secret trials run them so.

The tracked chain of the same stages is `dpib.chain`.
"""

from dataclasses import replace
from pathlib import Path

from dpib.privacy.events import Plan
from dpib.privacy.ledger import Account, BudgetError, Ledger, Public
from dpib.privacy.lineage import merged
from dpib.sensitive import Sensitive
from dpib.stages import train
from dpib.stages.build import FINAL
from dpib.stages.context import Context
from dpib.stages.generate import GEN, generate
from dpib.stages.part import fit_part
from dpib.stages.pretrain import pretrain
from dpib.stages.query import ask, asked
from dpib.stages.taken import compared, sources


def inside(context: Context, name: str) -> Context:
    """Return the context of one stage of a course: private files and a snapshot of its own, artifacts shared."""
    folder = context.private / name
    folder.mkdir(parents=True, exist_ok=True)
    return replace(context, private=folder, log=context.log.part(name))


def follow(context: Context, sensitive: Sensitive, start: Path | None, plan: Plan, account: Account) -> list[Public]:
    """Query and pretrain unless there is a `start`, train, and draw images into `context.artifacts`.

    What an earlier attempt has finished stays; what it charged stands in its account.

    Args:
        context: the course.
        sensitive: the data set.
        start: checkpoint to train from, or None.
        plan: the charges of query and training, which `account` holds already.
        account: the ledger that travels with the checkpoint and the images.

    Returns:
        what was taken as public on the way, compared with the sensitive images; a `start` is for the caller to ask.

    Raises:
        BudgetError: when anything else was charged; no images are drawn then.
    """
    ledger = Ledger(account.model_copy(deep=True), context.private / "training.json")
    begun, public = start, []
    if start is None and (begun := prepared(context, sensitive, plan, ledger)) is not None:
        public = compared(context, sensitive, sources(begun))
        ledger.carry(ledger.account.model_copy(update={"public": merged(ledger.account.public, public)}))
    if not (context.artifacts / FINAL).is_file():
        train.fit(inside(context, "train"), sensitive, begun, ledger, plan)
    if ledger.account.events != account.events:
        raise BudgetError("the training made other charges than its plan had foreseen: the trial is thrown away")
    if not (context.artifacts / GEN).is_file():
        generate(inside(context, "generate"), ledger.account, context.artifacts / FINAL)
    return public


def prepared(context: Context, sensitive: Sensitive, plan: Plan, ledger: Ledger) -> Path | None:
    """Return the checkpoint that a training starts from: of the pretraining, after parts and query; None without."""
    parts: dict[str, Path] = {}
    for name in context.config.parts:
        own = _apart(context, f"part-{name}")
        parts[name] = own.artifacts / FINAL
        if not parts[name].is_file():
            fit_part(own, name)
    context = replace(context, parts=parts)
    queried = None
    if asked(plan.charges):
        own = _apart(context, "query")
        queried = own.artifacts / FINAL
        if not queried.is_file():
            ask(own, sensitive, ledger, plan)
    if context.config.public is None and queried is None:
        return None
    own = _apart(context, "pretrain")
    if not (own.artifacts / FINAL).is_file():
        pretrain(own, sensitive, queried)
    return own.artifacts / FINAL


def _apart(context: Context, name: str) -> Context:
    """Return the context of a stage whose artifacts nobody else needs."""
    own = inside(context, name)
    return replace(own, artifacts=own.private / "artifacts")
