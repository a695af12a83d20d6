"""Train: the synthesizer's only contact with the sensitive images, through the vault."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from dpib import checkpoint
from dpib.atomic import write_text
from dpib.privacy import statement
from dpib.privacy.events import Plan
from dpib.privacy.ledger import LEDGER, STATEMENT, Account, Ledger
from dpib.privacy.lineage import inherit
from dpib.sensitive import Sensitive
from dpib.stages.build import FINAL, build
from dpib.stages.context import Context
from dpib.stages.solving import calibrated, spent_metrics
from dpib.stages.taken import compared, sources


def train(context: Context, sensitive: Sensitive, pretrained: Path | None) -> dict[str, float]:
    """Write `checkpoints/final.safetensors` and `privacy/*`; return what was spent.

    Args:
        context: the stage.
        sensitive: the vaults of its data set.
        pretrained: checkpoint to start from, of a pretraining or a training, or None.

    Raises:
        UserError: when the budget cannot pay for the method's plan, or for what the start cost before.
    """
    fresh = sensitive.account().model_copy(update={"origins": [secrets.token_hex(8)]})
    ledger = Ledger.open(context.artifacts / LEDGER, started(context, sensitive, fresh, pretrained))
    if context.world.leads:
        sensitive.remember(ledger.account.origins[-1])
    if warning := statement.large_delta(ledger.account):
        context.log.say(f"train: warning: {warning}")
    plan = calibrated(build(context), ledger.account, ("train",))
    fit(context, sensitive, pretrained, ledger, Plan(plan))
    write_text(context.artifacts / STATEMENT, statement.render(ledger.account))
    return {**spent_metrics(ledger.account), **{f"privacy/sigma_{c.name}": c.sigma or 0.0 for c in plan}}


def started(context: Context, sensitive: Sensitive, account: Account, pretrained: Path | None) -> Account:
    """Return `account` as that of a training that begins at `pretrained`, with all that came before.

    A start that was itself trained on these images brings what that cost, and any start what it took as public.

    Raises:
        UserError: when the start cost too much already, or took these very images as public.
    """
    if pretrained is None:
        return account
    before = checkpoint.text(pretrained, "ledger")
    if before is not None:
        account = _apart(inherit(Account.parse(before), account, sensitive.same), account.origins, sensitive)
    return account.model_copy(update={"public": compared(context, sensitive, sources(pretrained))})


def _apart(account: Account, own: Sequence[str], sensitive: Sensitive) -> Account:
    """Return an inherited account, its scopes disjoint only if what came before is known to have split these images."""
    before = account.model_copy(update={"origins": [origin for origin in account.origins if origin not in own]})
    if not any(event.scope == "val" for event in account.events) or sensitive.known(before):
        return account
    account = account.model_copy(update={"disjoint": False})
    account.require(())
    return account


def fit(context: Context, sensitive: Sensitive, pretrained: Path | None, ledger: Ledger, plan: Plan) -> None:
    """Train from `pretrained` through the vault and write `checkpoints/final.safetensors` with its ledger.

    Args:
        context: the stage.
        sensitive: the vaults of its data set.
        pretrained: checkpoint to start from, or None.
        ledger: what is charged.
        plan: the calibrated charges.
    """
    synthesizer = build(context)
    if pretrained is not None:
        synthesizer.load_state_dict(checkpoint.load(pretrained))
    for charge in (charge for charge in plan.charges if charge.stage == "train"):
        context.log.say(f"train: {charge.name}: sigma {charge.sigma:.4g}, rate {charge.rate:g}, {charge.count} time(s)")
    vault = sensitive.vault("train", ledger, plan, context.private, context.world)
    synthesizer.train(vault, context.log)
    checkpoint.save(context.artifacts / FINAL, synthesizer.state_dict(), ledger=ledger.json())
