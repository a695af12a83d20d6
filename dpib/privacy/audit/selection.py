"""Audit of `Vault.select`: does the better candidate win as often as report-noisy-max with Laplace noise says?"""

import math
import tempfile
from pathlib import Path

import torch

from dpib.images import Images
from dpib.privacy.audit import statistics
from dpib.privacy.audit.findings import Finding
from dpib.privacy.events import Charge, Relation
from dpib.privacy.ledger import Account, Ledger
from dpib.privacy.mechanisms import Predictor
from dpib.privacy.rng import NoiseSource
from dpib.privacy.vault import Vault

_GAP = 3
_EPSILON = 0.5
_MOVES = {"zero_out": 1.0, "replace_one": 2.0}


def audit_selection(relation: Relation, selections: int = 600) -> list[Finding]:
    """Return the findings about selections between two candidates whose counts are three apart.

    With Laplace noise of scale b on both, the better one wins with probability 1 - (1 + d/(2b)) exp(-d/b)/2 at
    a gap d.
    """
    images = Images(torch.zeros(10, 1, 1, 1, dtype=torch.uint8), torch.zeros(10, dtype=torch.int64))
    plan = [Charge(f"select-{i}", "noisy_max", "an audit", epsilon=_EPSILON) for i in range(selections)]
    with tempfile.TemporaryDirectory(prefix="dpib-audit-") as folder:
        account = Account(dataset="made-up records", relation=relation, epsilon=1e9, delta=1e-6, scopes={"val": 10})
        ledger = Ledger.open(Path(folder) / "ledger.json", account)
        vault = Vault(images, "val", ledger, plan, NoiseSource(), Path(folder))
        ledger.reserve(plan, "val")
        vault.score("better", _right_on(8))
        vault.score("worse", _right_on(8 - _GAP))
        wins = sum(vault.select(charge.name, ["worse", "better"]) == "better" for charge in plan)
        charged = ledger.account.events == [charge.event("val", len(images), relation) for charge in plan]
    steps = _GAP * _EPSILON / _MOVES[relation]
    expected = 1 - (1 + steps / 2) * math.exp(-steps) / 2
    away = statistics.rate_deviation(wins, selections, expected)
    return [
        Finding("selection", "noise", f"wins away from {expected:.3f}, in standard errors", away,
                f"within {statistics.Z:g}", abs(away) <= statistics.Z),
        Finding("selection", "ledger", "charged once each, as planned", float(charged), "1", charged),
    ]  # fmt: skip


def _right_on(count: int) -> Predictor:
    """Return a predictor that is right on the first `count` images."""
    return lambda x: (torch.arange(len(x)) >= count).long()
