"""Train: the synthesizer's only contact with the sensitive images, through the vault."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from dpib import checkpoint
from dpib.atomic import write_text
from dpib.data.catalog import data_root
from dpib.errors import UserError
from dpib.overlap import checked, refuse_alike
from dpib.privacy import calibrate, statement
from dpib.privacy.events import Charge, Plan
from dpib.privacy.ledger import LEDGER, Account, Ledger
from dpib.privacy.lineage import inherit
from dpib.sensitive import Sensitive
from dpib.stages.context import Context
from dpib.stages.pretrain import FINAL, build, sources
from dpib.synthesizer import Synthesizer

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
    fresh = sensitive.account().model_copy(update={"origins": [secrets.token_hex(8)]})
    ledger = Ledger.open(context.artifacts / LEDGER, started(context, sensitive, fresh, pretrained))
    if context.world.leads:
        sensitive.remember(ledger.account.origins[-1])
    if warning := statement.large_delta(ledger.account):
        context.log.say(f"train: warning: {warning}")
    plan = calibrated(build(context), ledger.account)
    fit(context, sensitive, pretrained, ledger, Plan(plan))
    write_text(context.artifacts / STATEMENT, statement.render(ledger.account))
    return {**spent_metrics(ledger.account), **{f"privacy/sigma_{c.name}": c.sigma or 0.0 for c in plan}}


def started(context: Context, sensitive: Sensitive, account: Account, pretrained: Path | None) -> Account:
    """Return `account` as that of a training that begins at `pretrained`, with all that came before.

    A start that was itself trained on these images brings what that cost, and any start what it took as public.

    Raises:
        UserError: when the start cost too much already, or took these very images as public.
    """
    config = context.config
    if pretrained is None:
        return account
    before = checkpoint.text(pretrained, "ledger")
    if before is not None:
        account = _apart(inherit(Account.parse(before), account, sensitive.same), account.origins, sensitive)
    declared = config.public_overlap is not None
    found = account.public if before is not None else sources(pretrained)
    root = data_root(config.data_root)
    for source in found:
        refuse_alike(source.name, context.card, root)
    public = [checked(source, sensitive, context.card, config.data_root, declared) for source in found]
    for source in public:
        if not source.compared:
            context.log.say(
                f"train: {source.name}, which is taken as public, is not at hand to be compared with these images"
            )
    return account.model_copy(update={"public": public})


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
    for charge in plan.charges:
        context.log.say(f"train: {charge.name}: sigma {charge.sigma:.4g}, rate {charge.rate:g}, {charge.count} time(s)")
    vault = sensitive.vault("train", ledger, plan, context.private, context.world)
    synthesizer.train(vault, context.log)
    checkpoint.save(context.artifacts / FINAL, synthesizer.state_dict(), ledger=ledger.json())


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
            already=[event for event in account.touching("train") if event.id not in own],
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
