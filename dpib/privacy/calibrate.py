"""Choose the one free noise multiplier of a plan so that the whole ledger just fits its budget."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import dp_accounting
import numpy as np

from dpib.privacy.accounting import Accountant, spent
from dpib.privacy.errors import BudgetError
from dpib.privacy.events import Charge, Event, Relation, Scope

TOLERANCE = 1e-3
_ROUGHLY = 0.05
_LARGEST = 1e4
_LEAST, _BOUNDLESS = 1e-6, 1e9
_JUMP = 1e-9  # where costs that lie so close together, in sigma, differ, they will not meet epsilon
_FURTHEST = 3.0  # of a cost from its target, in logarithms: beyond it neither zero nor infinity has a say


def solve(
    plan: Sequence[Charge],
    *,
    scope: Scope,
    n: int,
    relation: Relation,
    epsilon: float,
    delta: float,
    already: Sequence[Event] = (),
    accountant: Accountant = "pld",
) -> tuple[Charge, ...]:
    """Return `plan` with its free sigma set: at most `epsilon` in all, and within 1e-3 of it.

    All free charges get the same sigma, also those within the trials of a random stopping. A plan whose
    sigmas are all given is returned as it is.

    Raises:
        ValueError: when the fixed charges (or what the ledger already holds) leave no budget.
        BudgetError: when the accountant cannot carry the plan, or no noise at all fits it.
    """
    if not any(charge.free for charge in plan):
        return tuple(plan)
    if epsilon > _LARGEST:
        raise BudgetError(
            f"epsilon = {epsilon:g} protects nothing: choose at most {_LARGEST:g}, usual is 0.1 to 10; "
            "what no privacy would give is the baseline's to say"
        )
    return _solved(tuple(plan), (scope, n, relation), epsilon, delta, tuple(already), accountant)


@lru_cache(maxsize=128)  # a sweep or a suite asks for the same plan many times
def _solved(
    plan: tuple[Charge, ...],
    where: tuple[Scope, int, Relation],
    epsilon: float,
    delta: float,
    already: tuple[Event, ...],
    accountant: Accountant,
) -> tuple[Charge, ...]:
    def cost(accountant: Accountant, sigma: float) -> float:
        return spent([*already, *(charge.at(sigma).event(*where) for charge in plan)], delta, accountant)

    def renyi(sigma: float) -> float:
        return cost("rdp", sigma)

    if cost(accountant, _BOUNDLESS) > epsilon:
        raise ValueError(f"nothing of the budget epsilon = {epsilon:g} is left for {plan[0].name!r}")
    # Renyi accounting takes milliseconds, is never below tight accounting and has nearly its slope: it finds the
    # neighbourhood, and the accountant is asked about three times there.
    sampled = math.sqrt(sum(charge.count * charge.rate**2 for charge in plan if charge.free))
    with np.errstate(divide="ignore"):  # of the logarithm of a probability that is 0
        start = dp_accounting.get_sigma_gaussian(epsilon, delta) * max(sampled, 0.5)
    # Gaussian releases of every record have a closed form: then this spends the budget to the last digit.
    if all(charge.rate == 1 for charge in plan if charge.free):
        closed = start * (2 if where[2] == "replace_one" else 1) * (1 + 1e-9)
        if epsilon * (1 - TOLERANCE) <= cost(accountant, closed) <= epsilon:
            return tuple(charge.at(closed) for charge in plan)
    slope = -1.0
    if renyi(_BOUNDLESS) < epsilon * (1 - TOLERANCE):
        start, slope = _neighbourhood(renyi, epsilon, start)
    sigma = _smallest(lambda sigma: cost(accountant, sigma), epsilon, start, slope, TOLERANCE)
    return tuple(charge.at(sigma) for charge in plan)


def _neighbourhood(cost: Callable[[float], float], epsilon: float, start: float) -> tuple[float, float]:
    """Return a sigma whose cost is about epsilon, and the slope d log cost / d log sigma there."""
    try:
        sigma = _smallest(cost, epsilon, start, -1.0, _ROUGHLY, questions=12)
    except BudgetError:
        return start, -1.0
    ends = cost(sigma), cost(sigma * 1.05)
    return sigma, math.log(ends[1] / ends[0]) / math.log(1.05) if 0 < ends[1] < ends[0] < math.inf else -1.0


def _smallest(
    cost: Callable[[float], float], epsilon: float, start: float, slope: float, tolerance: float, questions: int = 100
) -> float:
    """Return a sigma with epsilon (1 - tolerance) <= cost(sigma) <= epsilon, or, where costs jump, just beyond.

    Secant steps on the logarithms of both, which are nearly linear in each other, aimed at the middle of
    that interval; regula falsi (Illinois) as soon as the answer lies between two points. `slope` is the
    guess of d log cost / d log sigma at `start`.
    """
    half = tolerance / 2
    ends: dict[bool, tuple[float, float]] = {}  # too costly: its newest point; cheap enough: likewise
    x, before = math.log(start), None
    while math.log(_LEAST) <= x <= math.log(_BOUNDLESS) and questions > 0:
        questions -= 1
        y = _excess(cost(math.exp(x)), epsilon) + half
        if abs(y) <= half:
            return math.exp(x)
        costly = y > 0
        if costly == before and (not costly) in ends:
            # Twice on one side: the other end counts half, or it would never move.
            ends[not costly] = (ends[not costly][0], ends[not costly][1] / 2)
        if costly in ends and x != ends[costly][0]:
            slope = min((y - ends[costly][1]) / (x - ends[costly][0]), -0.1)
        ends[costly], before = (x, y), costly
        if len(ends) == 2:
            (x0, y0), (x1, y1) = ends.values()
            if abs(x1 - x0) < _JUMP:
                break
            x = x0 + (x1 - x0) * y0 / (y0 - y1)
        else:
            x -= max(-1.0, min(1.0, y / slope))
    if len(ends) == 2:
        return math.exp(ends[False][0])
    if False in ends:
        raise BudgetError(
            f"hardly any noise costs less than epsilon = {epsilon:g} here, so none can be chosen for it: lower epsilon "
            "or delta, or set the noise yourself"
        )
    raise BudgetError(f"no noise brings epsilon down to {epsilon:g}: raise epsilon, or make fewer steps")


def _excess(cost: float, epsilon: float) -> float:
    """Return by how much a cost, perhaps zero or infinite, exceeds epsilon: in logarithms, within bounds."""
    if cost <= 0:
        return -_FURTHEST
    return min(_FURTHEST, max(-_FURTHEST, math.log(cost / epsilon)))
