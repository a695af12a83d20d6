"""Train: the synthesizer's only contact with the sensitive images, through the vault."""

from pathlib import Path

from dpib import checkpoint
from dpib.atomic import write_text
from dpib.errors import UserError
from dpib.privacy import calibrate, statement
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.lineage import inherit
from dpib.sensitive import Sensitive
from dpib.stages.context import Context
from dpib.stages.pretrain import FINAL, build
from dpib.synthesizer import Synthesizer

LEDGER = Path("privacy") / "ledger.json"
STATEMENT = Path("privacy") / "statement.md"


def train(context: Context, sensitive: Sensitive, pretrained: Path | None) -> dict[str, float]:
    """Write `checkpoints/final.safetensors` and `privacy/*`; return what was spent.

    Args:
        context: the stage.
        sensitive: the vaults of its data set.
        pretrained: checkpoint to start from, of a pretraining or a training, or None.

    Raises:
        UserError: when the budget cannot pay for the method's plan, or for what the start cost before.
    """
    synthesizer, account = build(context), sensitive.account()
    if pretrained is not None:
        synthesizer.load_state_dict(checkpoint.load(pretrained))
        # A start that was itself trained on these images brings what that cost.
        before = checkpoint.ledger_text(pretrained)
        account = inherit(Account.parse(before), account) if before is not None else account
    ledger = Ledger.open(context.artifacts / LEDGER, account)
    plan = calibrated(synthesizer, ledger.account)
    for charge in plan:
        context.log.say(f"train: {charge.name}: sigma {charge.sigma:.4g}, rate {charge.rate:g}, {charge.count} time(s)")
    if warning := statement.large_delta(ledger.account):
        context.log.say(f"train: warning: {warning}")
    synthesizer.train(sensitive.vault("train", ledger, plan, context.private, context.world), context.log)
    checkpoint.save(context.artifacts / FINAL, synthesizer.state_dict(), ledger.json())
    write_text(context.artifacts / STATEMENT, statement.render(ledger.account))
    return {**spent_metrics(ledger.account), **{f"privacy/sigma_{c.name}": c.sigma or 0.0 for c in plan}}


def calibrated(synthesizer: Synthesizer, account: Account) -> tuple[Charge, ...]:
    """Return the synthesizer's plan with its free sigma solved for this budget.

    Raises:
        UserError: when the budget cannot pay for it.
    """
    n = account.scopes["train"]
    plan = synthesizer.plan(n)
    # After an interruption the ledger holds the plan itself; only what others charged is spent already.
    own = {f"train/{charge.name}" for charge in plan}
    try:
        return calibrate.solve(
            plan,
            scope="train",
            n=n,
            relation=account.relation,
            epsilon=account.epsilon,
            delta=account.delta,
            already=[event for event in account.events if event.id not in own],
            accountant=account.accountant,
        )
    except ValueError as error:
        raise UserError(f"{error}: raise epsilon") from None


def spent_metrics(account: Account, made_here: bool = True) -> dict[str, float]:
    """Return the `privacy/*` metrics of an account; none for one whose noise was not private.

    Of images that were not `made_here` it is unknown what their training spent: their epsilon is absent
    rather than 0. Images of public data alone were made here, at epsilon 0.
    """
    if account.tainted:
        return {}
    scopes = account.spent_by_scope()
    metrics = {"privacy/delta": account.delta}
    if "train" in scopes or made_here:
        metrics |= {"privacy/epsilon": account.spent(), "privacy/epsilon_train": scopes.get("train", 0.0)}
    if "val" in scopes:
        metrics["privacy/epsilon_selection"] = scopes["val"]
    return metrics
