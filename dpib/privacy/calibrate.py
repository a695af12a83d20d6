"""Choose the one free noise multiplier of a plan so that the whole ledger just fits its budget."""

import math
from collections.abc import Callable, Sequence

import dp_accounting

from dpib.privacy.accounting import spent
from dpib.privacy.events import Charge, Event, Relation, Scope

TOLERANCE = 1e-3


def solve(
    plan: Sequence[Charge],
    *,
    scope: Scope,
    n: int,
    relation: Relation,
    epsilon: float,
    delta: float,
    already: Sequence[Event] = (),
) -> tuple[Charge, ...]:
    """Return `plan` with its free sigma set: at most `epsilon` in all, and within 1e-3 of it.

    A plan whose sigmas are all given is returned as it is.

    Raises:
        ValueError: when the fixed charges (or what the ledger already holds) leave no budget.
    """
    if all(charge.kind != "gaussian" or charge.sigma is not None for charge in plan):
        return tuple(plan)

    def cost(sigma: float) -> float:
        events = [_fixed(charge, sigma).event(scope, n, relation) for charge in plan]
        return spent([*already, *events], delta)

    if cost(1e6) > epsilon:
        raise ValueError(f"nothing of the budget epsilon = {epsilon:g} is left for {plan[0].name!r}")
    # Sub-sampling and composition only move sigma down from here, and the search starts on the cheap side:
    # little noise means large privacy losses, which take the accountant long.
    times = sum(charge.count for charge in plan if charge.kind == "gaussian" and charge.sigma is None)
    start = dp_accounting.get_sigma_gaussian(epsilon, delta) * math.sqrt(times)
    sigma = _smallest(cost, epsilon, start * (2 if relation == "replace_one" else 1))
    return tuple(_fixed(charge, sigma) for charge in plan)


def _fixed(charge: Charge, sigma: float) -> Charge:
    return charge.at(sigma) if charge.kind == "gaussian" and charge.sigma is None else charge


def _smallest(cost: Callable[[float], float], epsilon: float, start: float) -> float:
    """Return a sigma with epsilon (1 - TOLERANCE) <= cost(sigma) <= epsilon.

    Regula falsi (Illinois) on the logarithms of both, which are nearly linear in each other, aimed at the
    middle of that interval.
    """
    half = TOLERANCE / 2

    def excess(sigma: float) -> float:
        # A cost of exactly zero (boundless noise) has no logarithm; any large negative number will do.
        return math.log(max(cost(sigma), 1e-300) / epsilon) + half

    start *= 1 + 1e-9  # the closed form's own rounding
    if abs(first := excess(start)) <= half:
        return start
    high, above = start, first
    while above > 0:
        high *= 1.5
        above = excess(high)
    low, below = high, above
    while below <= 0:
        high, above = low, below
        low /= 1.5
        below = excess(low)
    for _ in range(60):
        share = below / (below - above)
        middle = float(low * (high / low) ** share)
        value = excess(middle)
        if abs(value) <= half:
            return middle
        if value > 0:
            low, below, above = middle, value, above / 2
        else:
            high, above, below = middle, value, below / 2
    return high
