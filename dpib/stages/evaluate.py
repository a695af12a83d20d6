"""Evaluate: how useful and how faithful a synthetic set is, selection charged to its ledger."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dpib.atomic import write_text
from dpib.errors import UserError
from dpib.images import Images
from dpib.metrics.duplicates import count_duplicates
from dpib.privacy import statement
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.vault import Predictor
from dpib.privacy.yardstick import Yardstick
from dpib.public import read_public
from dpib.sensitive import Sensitive
from dpib.stages import judge
from dpib.stages.context import Context
from dpib.stages.fidelity import choose_embedding, fidelity
from dpib.stages.memorisation import check_memorisation
from dpib.stages.train import LEDGER, STATEMENT, spent_metrics

REPORT = "report.json"


def evaluate(
    context: Context, sensitive: Sensitive, images: Images, account: Account, made_here: bool
) -> dict[str, float]:
    """Judge `images`; write `report.json` and `privacy/*`; return the final metrics.

    Args:
        context: the stage; `config.eval` says how to judge.
        sensitive: the vaults and yardsticks of its data set.
        images: the synthetic set, in the card's shape.
        account: the ledger so far: what making the images cost, or nothing.
        made_here: whether that ledger came with the images; else nobody knows what they cost.

    Raises:
        UserError: when oracle figures are asked for and yardstick=none forbids them.
    """
    config = context.config
    if config.oracle and config.yardstick is None:
        raise UserError("oracle=true asks for figures on real images, which yardstick=none forbids: leave one of them")
    ledger = Ledger.open(context.artifacts / LEDGER, account)
    # Weights that cannot be loaded are found now, not after the classifiers are trained.
    embedding = choose_embedding(config, context.device, context.log) if config.yardstick == "all" else None
    metrics, report = _utility(context, sensitive, images, ledger)
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


def _utility(
    context: Context, sensitive: Sensitive, images: Images, ledger: Ledger
) -> tuple[dict[str, float], dict[str, Any]]:
    config, mode = context.config, context.config.eval.mode
    plan = judge.selection_plan(config.eval, ledger.account.epsilon) if mode == "val" else ()
    vault = sensitive.vault("val", ledger, plan, context.private) if mode == "val" else None
    if vault is not None:
        ledger.reserve(plan, "val")
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
    failed = judge.diverged(found, len(context.card.classes))
    for name in failed:
        log.say(f"evaluate: warning: {name} did not learn the synthetic images; its accuracy is that of a failed fit")
    return metrics, {"selected": dict(winners), "selection": config.eval.mode, "diverged": failed}
