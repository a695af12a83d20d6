"""Audit: run a method on made-up images far enough to learn what it releases, then attack each of its mechanisms."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dpib import seeding
from dpib.atomic import write_text
from dpib.checkpoint import State
from dpib.images import Images
from dpib.precision import settled
from dpib.privacy.audit import (
    black_box,
    canaries,
    counts,
    records,
    repetition,
    selection,
    steps,
    sums,
    together,
)
from dpib.privacy.audit.findings import Finding, as_json, as_markdown, failed
from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account
from dpib.privacy.mechanisms import StepsMechanism, SumMechanism
from dpib.privacy.rng import NoiseSource
from dpib.stages.build import build
from dpib.stages.context import Context
from dpib.stages.query import asked
from dpib.stages.solving import calibrated
from dpib.synthesizer import Synthesizer

REPORT = "audit/report.md"
FINDINGS = "audit/findings.json"
_IMAGES = 64
_START = """Networks were audited with random weights in place of pretrained ones, all a little off where they are
initialised, so that no layer is zero: the noise and the most that one record may change do not depend on weights."""
_OFF = 0.02

Mechanism = SumMechanism | StepsMechanism


class _Enough(Exception):
    """Every planned release has been seen: the rest of the training would teach nothing."""


def audit(context: Context, account: Account, black: bool) -> dict[str, float]:
    """Write `audit/report.md` and `audit/findings.json`; return how many checks were made and how many failed.

    No sensitive record is read.

    Args:
        context: the stage.
        account: a fresh account of the data set: it says for how many records and what budget to calibrate.
        black: also run the slow black-box test of every release.
    """
    synthesizer = build(context)
    synthesizer.load_state_dict(_as_if_pretrained(synthesizer.state_dict(), context.config.seed))
    plan = calibrated(synthesizer, account)
    mechanisms = witnessed(context, synthesizer, plan)
    findings: list[Finding] = []
    for charge in plan:
        context.log.say(f"audit: {charge.name}")
        findings += _attack(context, charge, mechanisms.get(charge.name), account.scopes["train"], black)
    context.log.say("audit: releases by several names")
    findings += repetition.audit_names()
    if context.config.eval.mode == "val":
        context.log.say("audit: counts, and selection of classifiers")
        findings += counts.audit_counts() + selection.audit_selection(account.relation)
    config = context.config
    title = f"{config.method} on {context.card.name}, epsilon {config.epsilon:g}, profile {config.profile}"
    write_text(context.artifacts / REPORT, as_markdown(title, findings, (_START,)))
    write_text(context.artifacts / FINDINGS, as_json(findings))
    return {"audit/checks": float(len(findings)), "audit/failed": float(len(failed(findings)))}


def _as_if_pretrained(state: State, seed: int) -> State:
    """Return the state with every weight moved at random: some networks begin with layers of zeros."""
    stream = seeding.generator(seed, "audit", "weights")

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: moved(part) for name, part in value.items()}
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return value + _OFF * torch.randn(value.shape, generator=stream).to(value)

    return {name: moved(part) for name, part in state.items()}


def witnessed(context: Context, synthesizer: Synthesizer, plan: tuple[Charge, ...]) -> dict[str, Mechanism]:
    """Return the mechanism behind each planned charge, as the method's own training asks for it."""
    found: dict[str, Mechanism] = {}

    def witness(charge: Charge, mechanism: Mechanism) -> None:
        found[charge.name] = mechanism
        if len(found) == len(plan):
            raise _Enough

    shape, classes = context.card.shape, len(context.card.classes)
    stream = seeding.generator(context.config.seed, "audit", "images")
    x = torch.randint(0, 256, (_IMAGES, *shape), generator=stream, dtype=torch.uint8)
    images = Images(x, torch.arange(_IMAGES) % classes)
    with records.vault_for(images, plan, NoiseSource(), witness) as (vault, _), suppress(_Enough):
        if asked(plan):
            build(context).query(vault, context.log)  # one that has asked would go on to pretraining
        synthesizer.train(vault, context.log)
    return found


def _attack(context: Context, charge: Charge, mechanism: Mechanism | None, n: int, black: bool) -> list[Finding]:
    shape, classes = context.card.shape, len(context.card.classes)
    if isinstance(mechanism, SumMechanism):
        found = sums.audit_sum(charge, mechanism.feature, shape, classes)
        return found + (black_box.audit_sum(charge, mechanism.feature, shape, classes) if black else [])
    if isinstance(mechanism, StepsMechanism):
        loss, model = mechanism.loss, mechanism.model
        # Two trainings that are compared must not differ in what either found faster.
        device = next(model.parameters()).device
        spec = replace(mechanism.spec, precision=settled(mechanism.spec.precision, device))
        found = steps.audit_steps(charge, loss, model, spec, shape, classes)
        found += canaries.audit_canaries(charge, spec, loss.multiplicity, n)
        found += together.audit_together(charge, spec, loss.multiplicity)
        found += repetition.audit_distances(charge, spec)
        return found + (black_box.audit_steps(charge, loss, model, spec, shape, classes) if black else [])
    return [Finding(charge.name, "ledger", "the method asks for its planned release", 0.0, "1", False)]
