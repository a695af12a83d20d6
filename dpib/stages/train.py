"""Train: the synthesizer's only contact with the sensitive images, through the vault."""

from pathlib import Path

import torch

from dpib import checkpoint
from dpib.atomic import write_text
from dpib.config import Config
from dpib.data.catalog import Card
from dpib.errors import UserError
from dpib.privacy import calibrate, statement
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account, Ledger
from dpib.sensitive import Sensitive
from dpib.stages.pretrain import FINAL, build
from dpib.synthesizer import Log, Synthesizer

LEDGER = Path("privacy") / "ledger.json"
STATEMENT = Path("privacy") / "statement.md"


def train(
    config: Config,
    card: Card,
    sensitive: Sensitive,
    device: torch.device,
    pretrained: Path | None,
    artifacts: Path,
    private: Path,
    log: Log,
) -> dict[str, float]:
    """Write `checkpoints/final.safetensors` and `privacy/*`; return what was spent.

    Args:
        config: the run's configuration.
        card: of the sensitive data set.
        sensitive: its vaults.
        device: where to train.
        pretrained: checkpoint of a pretraining stage, or None.
        artifacts: where artifacts go.
        private: where finished releases are kept until the stage is done.
        log: curves, grids, snapshots.
    """
    synthesizer = build(config, card, device)
    if pretrained is not None:
        synthesizer.load_state_dict(checkpoint.load(pretrained))
    ledger = Ledger.open(artifacts / LEDGER, sensitive.account())
    plan = calibrated(synthesizer, ledger.account)
    for charge in plan:
        log.say(f"train: {charge.name}: sigma {charge.sigma:.4g}, rate {charge.rate:g}, {charge.count} time(s)")
    vault = sensitive.vault("train", ledger, plan, private)
    synthesizer.train(vault, log)
    checkpoint.save(artifacts / FINAL, synthesizer.state_dict())
    write_text(artifacts / STATEMENT, statement.render(ledger.account))
    return {**spent_metrics(ledger.account), **{f"privacy/sigma_{c.name}": c.sigma or 0.0 for c in plan}}


def calibrated(synthesizer: Synthesizer, account: Account) -> tuple[Charge, ...]:
    """Return the synthesizer's plan with its free sigma solved for this budget.

    Raises:
        UserError: when the budget cannot pay for it.
    """
    n = account.scopes["train"]
    try:
        return calibrate.solve(
            synthesizer.plan(n),
            scope="train",
            n=n,
            relation=account.relation,
            epsilon=account.epsilon,
            delta=account.delta,
        )
    except ValueError as error:
        raise UserError(f"{error}: raise epsilon") from None


def spent_metrics(account: Account) -> dict[str, float]:
    """Return the `privacy/*` metrics of an account; none for one whose noise was not private."""
    if account.tainted:
        return {}
    scopes = account.spent_by_scope()
    metrics = {"privacy/delta": account.delta}
    if "train" in scopes:
        metrics |= {"privacy/epsilon": account.spent(), "privacy/epsilon_train": scopes["train"]}
    if "val" in scopes:
        metrics["privacy/epsilon_selection"] = scopes["val"]
    return metrics
