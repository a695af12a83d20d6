"""Sides that are timed in turns, so that a busy machine slows all alike."""

from collections.abc import Callable, Sequence


def in_turns(sides: Sequence[Callable[[], object]], rounds: int, now: Callable[[], float]) -> list[list[float]]:
    """Return the seconds that every side took in each round, by the clock `now`, after one warm-up."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds + 1):
        for took, side in zip(times, sides, strict=True):
            begun = now()
            side()
            if turn:
                took.append(now() - begun)
    return times
