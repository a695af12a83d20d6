"""Choose the one free noise multiplier of a plan so that the whole ledger just fits its budget."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import dp_accounting

from dpib.privacy.accounting import Accountant, spent
from dpib.privacy.events import Charge, Event, Relation, Scope

TOLERANCE = 1e-3
_BOUNDLESS = 1e6


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
        BudgetError: when the accountant cannot carry the plan.
    """
    if not any(charge.free for charge in plan):
        return tuple(plan)
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
    # Tight accounting of many steps takes seconds. Renyi accounting takes milliseconds, is never below it and
    # has nearly its slope, so it finds the neighbourhood, and the accountant is asked about three times there.
    sampled = math.sqrt(sum(charge.count * charge.rate**2 for charge in plan if charge.free))
    start = dp_accounting.get_sigma_gaussian(epsilon, delta) * max(sampled, 0.5)
    # Gaussian releases of every record have a closed form: then this spends the budget to the last digit.
    if all(charge.rate == 1 for charge in plan if charge.free):
        closed = start * (2 if where[2] == "replace_one" else 1) * (1 + 1e-9)
        if epsilon * (1 - TOLERANCE) <= cost(accountant, closed) <= epsilon:
            return tuple(charge.at(closed) for charge in plan)
    slope = -1.0
    if renyi(_BOUNDLESS) < epsilon * (1 - TOLERANCE):
        start = _smallest(renyi, epsilon, start, slope)
        slope = math.log(renyi(start * 1.05) / renyi(start)) / math.log(1.05)
    sigma = _smallest(lambda sigma: cost(accountant, sigma), epsilon, start, slope)
    return tuple(charge.at(sigma) for charge in plan)


def _smallest(cost: Callable[[float], float], epsilon: float, start: float, slope: float) -> float:
    """Return a sigma with epsilon (1 - TOLERANCE) <= cost(sigma) <= epsilon.

    Secant steps on the logarithms of both, which are nearly linear in each other, aimed at the middle of
    that interval; regula falsi (Illinois) as soon as the answer lies between two points. `slope` is the
    guess of d log cost / d log sigma at `start`.
    """
    half = TOLERANCE / 2
    ends: dict[bool, tuple[float, float]] = {}  # too costly: its newest point; cheap enough: likewise
    x, before = math.log(start), None
    for _ in range(100):
        # A cost of exactly zero (boundless noise) has no logarithm; any large negative number will do.
        y = math.log(max(cost(math.exp(x)), 1e-300) / epsilon) + half
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
            x = x0 + (x1 - x0) * y0 / (y0 - y1)
        else:
            x -= max(-1.0, min(1.0, y / slope))
    if False not in ends:
        raise ValueError(f"no noise brings epsilon down to {epsilon:g}")
    return math.exp(ends[False][0])
