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
    start = dp_accounting.get_sigma_gaussian(epsilon, delta) * (2 if relation == "replace_one" else 1)
    sigma = _smallest(cost, epsilon, start)
    return tuple(_fixed(charge, sigma) for charge in plan)


def _fixed(charge: Charge, sigma: float) -> Charge:
    return charge.at(sigma) if charge.kind == "gaussian" and charge.sigma is None else charge


def _smallest(cost: Callable[[float], float], epsilon: float, start: float) -> float:
    """Return the smallest sigma with cost(sigma) <= epsilon, by bisection on its logarithm."""
    # A single full-batch Gaussian release has its exact answer in `start`: take it without search.
    if epsilon * (1 - 1e-9) <= cost(start) <= epsilon:
        return start
    low = high = start
    while cost(high) > epsilon:
        high *= 2
    while cost(low) <= epsilon and low > 1e-3:
        low /= 2
    while epsilon - cost(high) > TOLERANCE * epsilon or high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if cost(middle) <= epsilon else (middle, high)
        if high / low < 1 + 1e-9:
            break
    return high
