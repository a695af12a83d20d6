"""Evaluate: how useful and how faithful a synthetic set is, selection charged to its ledger."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from dpib.atomic import write_text
from dpib.data.catalog import Card
from dpib.errors import UserError
from dpib.images import Images
from dpib.metrics.duplicates import count_duplicates
from dpib.privacy import statement
from dpib.privacy.events import Event, Plan
from dpib.privacy.ledger import LEDGER, SLACK, STATEMENT, Account, BudgetError, Ledger
from dpib.privacy.lineage import spent_since
from dpib.privacy.mechanisms import Predictor
from dpib.privacy.yardstick import Yardstick
from dpib.public import read_public
from dpib.sensitive import Sensitive
from dpib.stages import judge
from dpib.stages.context import Context
from dpib.stages.fidelity import choose_embedding, fidelity
from dpib.stages.memorisation import check_memorisation
from dpib.stages.solving import spent_metrics

REPORT = "report.json"


class Purse(Protocol):
    """What pays for a selection on held-out images."""

    @property
    def name(self) -> str:
        """What this evaluation's charges are called by, apart from those of all others."""

    def record(self, events: Sequence[Event], account: Account) -> None:
        """Remember what is about to be spent, so that it stands in `account`, where all others will find it."""

    def continued(self, account: Account) -> Account:
        """Return `account` with all that is known to have been spent to judge the same training."""


def evaluate(
    context: Context,
    sensitive: Sensitive,
    images: Images,
    account: Account,
    made_here: bool,
    purse: Purse | None = None,
) -> dict[str, float]:
    """Judge `images`; write `report.json` and `privacy/*`; return the final metrics.

    Args:
        context: the stage; `config.eval` says how to judge.
        sensitive: the vaults and yardsticks of its data set.
        images: the synthetic set, in the card's shape.
        account: the ledger so far: what making the images cost, or nothing.
        made_here: whether that ledger came with the images; else nobody knows what they cost.
        purse: what pays for a selection on held-out images; none where there is none.

    Raises:
        UserError: when oracle figures are asked for and yardstick=none forbids them.
    """
    config = context.config
    if config.oracle and config.yardstick is None:
        raise UserError("oracle=true asks for figures on real images, which yardstick=none forbids: leave one of them")
    ledger = Ledger.open(context.artifacts / LEDGER, account, growing=True)
    # Weights that cannot be loaded are found now, not after the classifiers are trained.
    embedding = choose_embedding(config, context.device, context.log) if config.yardstick == "all" else None
    plan = _paid(context, ledger, config.epsilon, purse) if config.eval.mode == "val" else None
    metrics, report = _utility(context, sensitive, images, ledger, plan)
    if embedding is not None:
        figures, more = fidelity(context, sensitive, images, ledger, embedding)
        metrics |= figures
        report |= more
        if config.oracle:
            metrics |= check_memorisation(context, sensitive, images, ledger, embedding)
            metrics |= _check_public(context, sensitive, ledger)
    else:
        context.log.say("evaluate: yardstick=none, so no figure on real images is computed without noise")
    metrics |= spent_metrics(ledger.account, made_here)
    report["privacy"] = json.loads(ledger.json())
    write_text(context.artifacts / REPORT, json.dumps({"metrics": metrics, **report}, indent=2))
    write_text(context.artifacts / STATEMENT, statement.render(ledger.account))
    return metrics


def _check_public(context: Context, sensitive: Sensitive, ledger: Ledger) -> dict[str, float]:
    """Return how many training images stand in the public set as well; nothing where there is none."""
    config = context.config
    if config.public is None:
        return {}
    public = read_public(config.public, context.card.shape, config.data_root)
    what = "the number of training images that are in the public set, pixel by pixel"
    yardstick = sensitive.yardstick("train", ledger)
    found = yardstick.measure("oracle/public_duplicates", what, lambda real: count_duplicates(real, public))
    if found:
        context.log.say(f"evaluate: warning: {found} training images are in {config.public}, which is taken as public")
    return {"oracle/public_duplicates": float(found)}


def _paid(context: Context, ledger: Ledger, epsilon: float, purse: Purse | None) -> Plan:
    """Charge the selections, each evaluation its own budget `epsilon`, on top of what the images paid before."""
    assert purse is not None
    plan = Plan(judge.selection_plan(context.config.eval, epsilon), f"{purse.name}/")
    account = ledger.account
    if "val" not in account.scopes:
        raise BudgetError(
            "the training behind these images held none out, so none can select: give -P data.holdout=none "
            "-P eval.mode=syn, or train with data.holdout"
        )
    events = plan.events("val", account.scopes["val"], account.relation)
    if account.model_copy(update={"events": events}).spent() > epsilon * SLACK:
        raise BudgetError(f"the selections of this evaluation cost more than its budget of epsilon {epsilon:g}")
    # Written down first, looked up then: of two evaluations at once, one at least finds the other.
    purse.record(events, spent_since(account, events))
    grown = spent_since(purse.continued(account), events)
    total = grown.spent()
    if total > epsilon * SLACK:
        before = len(grown.touching("val")) - len(events)
        context.log.say(
            f"evaluate: {before} releases touched these held-out images before: this evaluation spends epsilon "
            f"{epsilon:g}, in all it is {total:.4g}"
        )
    ledger.carry(grown.model_copy(update={"epsilon": max(account.epsilon, total)}))
    ledger.reserve(plan.named(), "val")
    return plan


def _utility(
    context: Context, sensitive: Sensitive, images: Images, ledger: Ledger, plan: Plan | None
) -> tuple[dict[str, float], dict[str, Any]]:
    config, mode = context.config, context.config.eval.mode
    vault = sensitive.vault("val", ledger, plan, context.private) if plan is not None else None
    yardstick = sensitive.yardstick("test", ledger) if config.yardstick == "all" else None
    if mode == "sen" and yardstick is None:
        raise UserError("eval.mode=sen selects on test images, which yardstick=none forbids")
    test = tester(yardstick) if yardstick is not None else None
    everyone = mode == "sen" or config.oracle
    found = judge.race(context, images, vault.score if vault is not None else None, test, everyone)
    if vault is not None:
        winners = {name: vault.select(f"select/{name}", group) for name, group in found.groups().items()}
    else:
        winners = found.best(found.syn if mode == "syn" else found.test)
    if test is not None:
        judge.test_winners(context, found, winners, test)
    return _summary(context, found, winners, yardstick)


def tester(yardstick: Yardstick) -> judge.Test:
    """Return a function that compares a predictor with the real test labels: bool [n]."""

    def test(candidate: str, predict: Predictor) -> Tensor:
        what = "accuracy of the trained classifiers on real test images"
        return yardstick.measure("utility", what, lambda real: predict(real.x) == real.y)

    return test


def one_class(card: Card, accuracy: float | None) -> str | None:
    """Return a warning where always naming the commonest class would be as accurate (in percent), by public counts.

    As accurate is what lies within two standard errors of the number of test images.
    """
    commonest = card.commonest("test")
    if accuracy is None or commonest is None:
        return None
    name, share = commonest
    if accuracy > share + 2 * math.sqrt(share * (100 - share) / card.sizes.test):
        return None
    return f"an accuracy of {accuracy:.1f} % says nothing: {share:.1f} % of the test images are of class {name!r} alone"


def _summary(
    context: Context, found: judge.Race, winners: Mapping[str, str], yardstick: Yardstick | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return what of the race may be seen: the selected candidates, and all of it only where asked for."""
    config, log = context.config, context.log
    metrics: dict[str, float] = {}
    if yardstick is not None:
        figures = judge.utility_metrics(found, winners)
        # Selection on the test images is no measurement of anything but that selection.
        oracle = config.eval.mode == "sen"
        metrics |= {f"oracle/{name}" if oracle else name: value for name, value in figures.items()}
        metrics["utility/n_test"] = float(yardstick.n)
        if config.oracle or oracle:
            for candidate, value in found.test.items():
                name, _, epoch = candidate.partition("/")
                log.curve(f"oracle/{name}/test_accuracy", value, int(epoch))
    warning = one_class(context.card, metrics.get("utility/accuracy_best"))
    if warning is not None:
        log.say(f"evaluate: warning: {warning}")
    failed = judge.diverged(found, len(context.card.classes))
    for name in failed:
        log.say(f"evaluate: warning: {name} did not learn the synthetic images; its accuracy is that of a failed fit")
    return metrics, {"selected": dict(winners), "selection": config.eval.mode, "diverged": failed}
