"""Query: the small private releases that come before pretraining."""

import secrets
import sys
from collections.abc import Sequence

from dpib import checkpoint
from dpib.atomic import write_text
from dpib.privacy import statement
from dpib.privacy.events import Charge, Plan
from dpib.privacy.ledger import LEDGER, STATEMENT, Account, Ledger
from dpib.sensitive import Sensitive
from dpib.stages.build import FINAL, build
from dpib.stages.context import Context
from dpib.stages.solving import calibrated, spent_metrics
from dpib.stages.taken import compared, together


def asked(plan: Sequence[Charge]) -> tuple[Charge, ...]:
    """Return those charges of a plan that a query makes."""
    return tuple(charge for charge in plan if charge.stage == "query")


def query(context: Context, sensitive: Sensitive) -> dict[str, float]:
    """Write `checkpoints/final.safetensors` with what was released, and `privacy/*`; return what was spent.

    The budget of its ledger is what it costs: it serves every training that has room for it.

    Raises:
        UserError: when a part was fitted to these very images.
    """
    fresh = sensitive.account()
    charges = asked(calibrated(build(context), fresh))
    public = compared(context, sensitive, together(context.parts.values()))
    begun = priced(fresh, charges).model_copy(update={"origins": [secrets.token_hex(8)], "public": public})
    ledger = Ledger.open(context.artifacts / LEDGER, begun)
    if context.world.leads:
        sensitive.remember(ledger.account.origins[-1])
    ask(context, sensitive, ledger, Plan(charges))
    write_text(context.artifacts / STATEMENT, statement.render(ledger.account))
    return spent_metrics(ledger.account)


def priced(account: Account, charges: Sequence[Charge]) -> Account:
    """Return a fresh account whose budget is just what these charges cost, and above 0 where that is nothing."""
    events = Plan(tuple(charges)).events("train", account.scopes["train"], account.relation)
    return account.model_copy(update={"epsilon": max(account.total_of(events), sys.float_info.epsilon)})


def ask(context: Context, sensitive: Sensitive, ledger: Ledger, plan: Plan) -> None:
    """Make the releases of a plan's query and write `checkpoints/final.safetensors` with the ledger."""
    synthesizer = build(context)
    for charge in asked(plan.charges):
        context.log.say(f"query: {charge.name}: sigma {charge.sigma:.4g}, rate {charge.rate:g}, {charge.count} time(s)")
    vault = sensitive.vault("train", ledger, plan, context.private, context.world)
    synthesizer.query(vault, context.log)
    checkpoint.save(context.artifacts / FINAL, synthesizer.state_dict(), ledger=ledger.json())
