"""The search space of a sweep: dotted configuration keys, and how a point of it becomes a configuration."""

import math
import re
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Self

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import AfterValidator, Field, model_validator

from dpib.config.overrides import nest
from dpib.config.schema import flatten
from dpib.errors import UserError
from dpib.section import Section

Point = dict[str, Any]
"""One value per dimension, as Optuna keeps it: numbers, or the text of a choice."""


class Range(Section):
    """Numbers from `low` to `high`, both included; on a logarithmic scale, or in steps."""

    low: float
    high: float
    log: bool = False
    step: float | None = Field(default=None, gt=0)
    integer: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a logarithmic range needs a low above 0 and no step")
        if self.integer and not all(float(v).is_integer() for v in (self.low, self.high, self.step or 1)):
            raise ValueError("an integer range needs integer bounds and an integer step")
        return self

    def distribution(self) -> BaseDistribution:
        """Return what Optuna samples from."""
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), self.log, int(self.step or 1))
        return FloatDistribution(self.low, self.high, self.log, self.step)

    def grid(self) -> list[Any] | None:
        """Return every value, or None where they are not countable."""
        if self.step is None and not self.integer:
            return None
        step = self.step or 1
        values = [self.low + i * step for i in range(math.floor((self.high - self.low) / step + 1e-9) + 1)]
        return [int(v) for v in values] if self.integer else values


class Choices(Section):
    """One of several plain values."""

    choices: list[bool | int | float | str | None] = Field(min_length=2)

    def distribution(self) -> BaseDistribution:
        """Return what Optuna samples from."""
        return CategoricalDistribution(self.choices)

    def grid(self) -> list[Any] | None:
        """Return every value."""
        return list(self.choices)


class Options(Section):
    """One of several named groups of overrides, for what one plain value cannot say (an architecture)."""

    options: dict[str, dict[str, Any]] = Field(min_length=2)

    def distribution(self) -> BaseDistribution:
        """Return what Optuna samples from: the names."""
        return CategoricalDistribution(list(self.options))

    def grid(self) -> list[Any] | None:
        """Return every name."""
        return list(self.options)


def _named(space: dict[str, Range | Choices | Options]) -> dict[str, Range | Choices | Options]:
    """Refuse names that a tracked parameter cannot have: they become part of one."""
    options = [name for dimension in space.values() if isinstance(dimension, Options) for name in dimension.options]
    for name in (*space, *options):
        if not re.fullmatch(r"[\w.\- ]{1,100}", name):
            raise ValueError(
                f"the name {name!r} holds more than letters, digits, blanks and the signs . _ -, or is too long"
            )
    return space


Space = Annotated[dict[str, Range | Choices | Options], AfterValidator(_named)]


def keys(space: Space) -> set[str]:
    """Return the configuration keys that a point may change."""
    found: set[str] = set()
    for name, dimension in space.items():
        if isinstance(dimension, Options):
            for overrides in dimension.options.values():
                found |= set(flatten(nest(overrides)))
        else:
            found.add(name)
    return found


def changes(point: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Return a point as dotted configuration keys."""
    found: dict[str, Any] = {}
    for name, value in point.items():
        dimension = space[name]
        found.update(dimension.options[value] if isinstance(dimension, Options) else {name: value})
    return found


def extremes(space: Space) -> list[Point]:
    """Return points of one dimension each that reach both ends of every range, every choice and every option."""
    points: list[Point] = []
    for name, dimension in space.items():
        if isinstance(dimension, Range):
            ends = [int(v) if dimension.integer else v for v in (dimension.low, dimension.high)]
            points += [{name: value} for value in ends]
        else:
            points += [{name: value} for value in dimension.grid() or ()]
    return points


def suggest(trial: optuna.Trial, space: Space) -> Point:
    """Return the point that Optuna proposes for `trial`."""
    return {name: trial._suggest(name, dimension.distribution()) for name, dimension in space.items()}


def independent(space: Space, sampler: str, count: int, seed: int) -> list[Point]:
    """Return `count` points that look at no score: `random`, `qmc` (Sobol) or `grid`.

    Raises:
        UserError: for a grid of another size than `count`, or over a dimension without steps.
    """
    if sampler == "grid":
        return _grid(space, count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        chosen: optuna.samplers.BaseSampler = (
            optuna.samplers.QMCSampler(seed=seed, warn_independent_sampling=False)
            if sampler == "qmc"
            else optuna.samplers.RandomSampler(seed=seed)
        )
    study = optuna.create_study(sampler=chosen)
    distributions = {name: dimension.distribution() for name, dimension in space.items()}
    points = []
    for _ in range(count):
        trial = study.ask(distributions)
        points.append(dict(trial.params))
        study.tell(trial, 0.0)
    return points


def _grid(space: Space, count: int) -> list[Point]:
    points: list[Point] = [{}]
    for name, dimension in space.items():
        values = dimension.grid()
        if values is None:
            raise UserError(f"sweep.sampler=grid: {name} needs a step, or choices")
        points = [{**point, name: value} for point in points for value in values]
    if len(points) != count:
        raise UserError(f"the grid has {len(points)} points: set sweep.trials={len(points)}")
    return points


def logged(point: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Return a point as run parameters; logarithmic ones also as their log10, since the UI has no such axis."""
    found = dict(point)
    for name, dimension in space.items():
        if isinstance(dimension, Range) and dimension.log and name in point:
            found[f"log10_{name}"] = round(math.log10(point[name]), 6)
    return found
