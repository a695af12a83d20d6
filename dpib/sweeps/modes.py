"""What a sweep costs: which modes, samplers and pruners go together, and the charges that each makes.

- `public`: trials see public images only; no charge.
- `compose`: every training and every released score is charged, whoever proposed the trial.
- `random_stopping`: independent trials, their number drawn and secret, the winner alone becomes visible
  (Liu and Talwar 2019; Papernot and Steinke 2022).
- `one_shot`: the candidates depend on no validation image; one report-noisy-max, the index only.
- `unaccounted`: as `compose`, but nobody adds it up.
"""

from collections.abc import Sequence
from dataclasses import replace

from dpib.errors import UserError
from dpib.privacy import accounting, calibrate
from dpib.privacy.events import Charge, Event, Scope
from dpib.privacy.ledger import Account
from dpib.sweeps.space import keys
from dpib.sweeps.spec import Sweep

# What every trial of a sweep has in common: a point that changed it would answer another question.
_FIXED = ("epsilon", "delta", "relation", "accountant", "seed", "dataset", "method", "synthesizer", "profile", "data")


LEARNING = ("tpe", "gp")
"""Samplers that propose a trial by the scores of earlier ones."""
UNEQUAL = (
    "the sampler chooses the next trial by earlier scores, and this space lets it choose what a training charges "
    "(noise, sampling rate or steps): composing what happened does not cover that; leave these keys out of the space, "
    "or use sampler=random, qmc or grid, whose trials are drawn beforehand"
)


def check(spec: Sweep, dataset: str) -> None:
    """Refuse what does not go together.

    Raises:
        UserError: with the reason and what to do instead.
    """
    for refused, reason in (
        (
            spec.mode == "one_shot" and spec.kind == "synthesizer",
            "sweep.mode=one_shot selects among classifiers; every synthesizer spends on the training images: "
            "use public, random_stopping or compose",
        ),
        (
            spec.mode == "public" and spec.kind == "classifier",
            "sweep.mode=public tunes synthesizers on a public data set; for classifiers use one_shot",
        ),
        (spec.mode == "public" and spec.proxy is None, "sweep.mode=public needs sweep.proxy=<public data set>"),
        (
            spec.mode == "public" and spec.proxy == dataset,
            f"sweep.proxy={spec.proxy} is the sensitive data set itself: that is sweep.mode=compose",
        ),
        (
            spec.mode == "random_stopping" and spec.sampler != "random",
            f"sweep.mode=random_stopping holds for independent trials only, and sweep.sampler={spec.sampler} draws "
            "them together: use sampler=random, or mode=compose",
        ),
        (
            spec.mode in ("random_stopping", "public") and spec.pruner is not None,
            f"sweep.pruner={spec.pruner} compares trials, which sweep.mode={spec.mode} does not allow: use pruner=none",
        ),
        (
            spec.mode != "public" and spec.direction == "minimize",
            "the score is a number of right answers: sweep.direction=minimize is for mode=public",
        ),
        (
            spec.mode == "compose" and spec.kind == "synthesizer" and spec.epsilon_total is None,
            "sweep.mode=compose charges every training: say with sweep.epsilon_total where to stop",
        ),
    ):
        if refused:
            raise UserError(reason)
    _check_space(spec)


def _check_space(spec: Sweep) -> None:
    for key in sorted(keys(spec.space)):
        section = key.partition(".")[0]
        if section in _FIXED:
            raise UserError(f"sweep.space: {key} must be the same for every trial: give it beside the sweep")
        if spec.kind == "classifier" and section != "eval":
            raise UserError(f"sweep.space: a classifier sweep varies eval.* only, {key} makes other images")


def trial_id(study: str, slot: int, what: str, attempt: int = 1) -> str:
    """Return the name of a release of one trial: the same for a retry in the place that holds its noise."""
    again = f"attempt-{attempt}/" if attempt > 1 else ""
    return f"{study}/trial-{slot:03d}/{again}{what}"


def score_charge(spec: Sweep, account: Account, releases: int, name: str) -> Charge:
    """Return the charge of one noised score; a free sigma is set so that `releases` of them fit the budget.

    Raises:
        UserError: when the validation images have no budget left.
    """
    what = "right answers on held-out images of the trial's classifier"
    if spec.score.noise == "laplace":
        return Charge(name, "laplace", what, scale=spec.score.scale)
    all_of_them = Charge("scores", "gaussian", what, sigma=spec.score.sigma, count=releases)
    (solved,) = _solved([all_of_them], account)
    return Charge(name, "gaussian", what, sigma=solved.sigma)


def stopping_charges(
    spec: Sweep, account: Account, trial: Sequence[Charge], study: str
) -> tuple[tuple[Charge, ...], Charge]:
    """Return what the best of a secret number of trials costs: charges on train (may be none), and on val.

    Args:
        spec: the sweep; its `drawn` is the law of the number of trials.
        account: the ledger so far. Its epsilon is the cap where the sweep has one; else that of one trial, and
            the scores may cost what the trainings cost.
        trial: the calibrated charges of one synthesizer's training, or none for a classifier sweep.
        study: prefix of the ids.
    """
    law = spec.drawn.stopping()
    train: tuple[Charge, ...] = ()
    if trial:
        label = f"best of about {law.mean:.3g} synthesizers, each trained for the epsilon of one"
        train = (Charge(f"{study}/trials", "random_stopping", label, base=tuple(trial), stopping=law),)
    if spec.score.noise == "laplace":
        base = Charge("score", "laplace", "", scale=spec.score.scale)
    else:
        base = Charge("score", "gaussian", "", sigma=spec.score.sigma)
    if spec.epsilon_total is None:
        trained = accounting.spent(events_of(train, account, "train"), account.delta, account.accountant)
        account = account.model_copy(update={"epsilon": max(account.epsilon, trained)})
    label = f"best noised number of right answers among about {law.mean:.3g} trials"
    (val,) = _solved([Charge(f"{study}/scores", "random_stopping", label, base=(base,), stopping=law)], account)
    return train, val


def selection_charge(account: Account, name: str) -> Charge:
    """Return one report-noisy-max over all candidates, for what is left of the budget on val.

    Raises:
        UserError: when nothing is left.
    """
    if _exhausted(account):
        raise _nothing_left(account)
    spent = _spent(account)
    # Any (e1, d) and (e2, 0) compose to (e1 + e2, d), so the rest of the budget may go to a pure mechanism,
    # but for what the accountant's rounding adds when it composes it with earlier ones.
    room = calibrate.TOLERANCE if spent else 1e-9
    return noisy_max(name, (account.epsilon - spent) * (1 - room))


def noisy_max(name: str, epsilon: float) -> Charge:
    """Return the charge of one report-noisy-max over the trials' classifiers."""
    return Charge(name, "noisy_max", "which trial's classifier is most accurate on held-out images", epsilon=epsilon)


def trials_total(trial: Sequence[Charge], account: Account, scope: Scope, trials: int) -> float:
    """Return epsilon of `trials` equal trials composed, on the records of one scope and from nothing."""
    events = [event for i in range(trials) for event in events_of(trial, account, scope, f"trial-{i:03d}/")]
    return accounting.spent(events, account.delta)


def events_of(charges: Sequence[Charge], account: Account, scope: Scope, prefix: str = "") -> list[Event]:
    """Return charges as events on the records of `scope`, their names prefixed."""
    return [renamed(c, prefix + c.name).event(scope, account.scopes[scope], account.relation) for c in charges]


def renamed(charge: Charge, name: str) -> Charge:
    """Return the same charge under another name."""
    return replace(charge, name=name)


def _solved(plan: Sequence[Charge], account: Account) -> tuple[Charge, ...]:
    if _exhausted(account):
        raise _nothing_left(account)
    try:
        return calibrate.solve(
            plan,
            scope="val",
            n=account.scopes["val"],
            relation=account.relation,
            epsilon=account.epsilon,
            delta=account.delta,
            already=account.touching("val"),
            accountant=account.accountant,
        )
    except ValueError:
        raise _nothing_left(account) from None


def _exhausted(account: Account) -> bool:
    # What is left must be worth more than the calibration's own tolerance.
    return _spent(account) >= account.epsilon * (1 - calibrate.TOLERANCE)


def _spent(account: Account) -> float:
    return account.total_of(account.touching("val"))


def _nothing_left(account: Account) -> UserError:
    return UserError(
        f"the held-out images have already spent epsilon {_spent(account):.4g} of "
        f"sweep.epsilon_total={account.epsilon:g}: "
        f"raise it (to {2 * _spent(account):.4g}, say), or start from a generate run that was not evaluated"
    )
