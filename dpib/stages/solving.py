"""What a synthesizer's plan comes to within a budget, and what an account says was spent."""

import torch

from dpib.config import Config
from dpib.data.catalog import Card
from dpib.errors import UserError
from dpib.privacy import calibrate
from dpib.privacy.events import Charge, Plan, When
from dpib.privacy.ledger import Account
from dpib.sensitive import fresh_account
from dpib.stages.build import make
from dpib.synthesizer import Synthesizer


def training_plan(config: Config, card: Card, account: Account) -> tuple[Charge, ...]:
    """Return the calibrated charges of a query and a training within `account`, a fresh one."""
    return calibrated(make(config, card, torch.device("cpu")), account)


def require_budget(config: Config, card: Card, begun: bool = False) -> None:
    """Refuse a plan that its budget cannot pay, before anything is pretrained for it.

    Args:
        config: the whole.
        card: of the sensitive data set.
        begun: the training has something to start from, and makes no query.

    Raises:
        UserError: when it cannot.
    """
    account = fresh_account(config, card)
    stages: tuple[When, ...] = ("train",) if begun else ("query", "train")
    plan = Plan(calibrated(make(config, card, torch.device("cpu")), account, stages))
    account.require(plan.events("train", account.scopes["train"], account.relation))


def require_proportions(config: Config, card: Card) -> None:
    """Refuse to draw labels by proportions that no release of the method tells, before anything is trained.

    Raises:
        UserError: when the plan has no such release.
    """
    if config.generate.labels != "estimated":
        return
    plan = make(config, card, torch.device("cpu")).plan(fresh_account(config, card).scopes["train"])
    if not any(charge.counts for charge in plan):
        raise UserError(f"{config.method} releases no class proportions: use generate.labels=balanced")


def calibrated(
    synthesizer: Synthesizer, account: Account, stages: tuple[When, ...] = ("query", "train")
) -> tuple[Charge, ...]:
    """Return the synthesizer's plan for some stages with its free sigma solved for this budget.

    Raises:
        UserError: when the budget cannot pay for it.
    """
    n = account.scopes["train"]
    plan = tuple(charge for charge in synthesizer.plan(n) if charge.stage in stages)
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
