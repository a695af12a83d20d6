"""What a sweep is told: a typed YAML file, and `sweep.*` keys laid over it on the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dpib.config.compose import CONFIGS, merge
from dpib.config.overrides import nest
from dpib.errors import UserError
from dpib.paths import written_path
from dpib.privacy.stopping import Stopping
from dpib.section import Positive, Section, Text, parse_value, read_yaml, validated
from dpib.sweeps.space import Space

Kind = Literal["classifier", "synthesizer"]
Mode = Literal["public", "compose", "random_stopping", "one_shot", "unaccounted"]


class Score(Section):
    """How a trial is scored.

    `noise` is laid on the number of held-out images that its classifier gets right: Gaussian of standard
    deviation `sigma` or Laplace of scale `scale`, in images; a sigma that is left out is chosen so that all
    scores together just fit the cap. On a public proxy no noise is needed, and `metric` names a figure of
    the trial's own evaluation.
    """

    noise: Literal["gaussian", "laplace"] = "gaussian"
    sigma: float | None = Field(default=None, gt=0)
    scale: float | None = Field(default=None, gt=0)
    metric: Text = "utility/accuracy_best"

    @model_validator(mode="after")
    def _priced_by_its_noise(self) -> Self:
        if self.noise == "laplace" and (self.scale is None or self.sigma is not None):
            raise ValueError("laplace noise needs a scale and no sigma")
        if self.noise == "gaussian" and self.scale is not None:
            raise ValueError("gaussian noise has a sigma, not a scale")
        return self


class Drawn(Section):
    """The secret number of trials of `random_stopping`: its law and mean (eta 0 logarithmic, 1 geometric)."""

    law: Literal["negative_binomial", "poisson"] = "negative_binomial"
    mean: float = Field(default=10.0, gt=1)
    eta: float = Field(default=0.0, gt=-1)

    def stopping(self) -> Stopping:
        """Return the law as the accountant knows it."""
        if self.law == "poisson":
            return Stopping.poisson(self.mean)
        return Stopping.negative_binomial(self.mean, self.eta)


class Sweep(Section):
    """A sweep, beside the configuration that its trials share (`base` and the command line)."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    kind: Kind
    mode: Mode
    proxy: Text | None = Field(default=None, description="mode public: the data set that trials train on")
    final: bool = Field(default=True, description="mode public: end with one private run of the winner")
    score: Score = Score()
    direction: Literal["maximize", "minimize"] = "maximize"
    trials: Positive
    drawn: Drawn = Drawn()
    sampler: Literal["random", "qmc", "grid", "tpe", "gp"] = "random"
    pruner: Literal["median", "halving"] | None = None
    epsilon_total: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)
    heartbeat: Positive = Field(default=20, description="seconds; a worker is taken for dead after three")
    space: Space = Field(min_length=1)


def read_sweep(config: str, overrides: Mapping[str, str]) -> tuple[Sweep, dict[str, str], dict[str, Any]]:
    """Return the sweep of a file with `sweep.*` overrides, the other overrides, and the file's own `base`.

    Raises:
        UserError: one line that names the offending key; or that the file does not exist.
    """
    path = find_file(config, "sweeps")
    tree = read_yaml(path)
    base = tree.pop("base", {})
    if not isinstance(base, dict):
        raise UserError(f"{path}: base must hold configuration keys")
    own = {key[6:]: parse_value(text, key[6:], Sweep) for key, text in overrides.items() if key.startswith("sweep.")}
    rest = {key: text for key, text in overrides.items() if not key.startswith("sweep.")}
    # A space on the command line replaces that of the file: dimensions do not merge.
    tree = {**tree, **{k: own.pop(k) for k in list(own) if k == "space"}}
    return validated(Sweep, merge(tree, nest(own)), str(path)), rest, base


def find_file(name: str, folder: str) -> Path:
    """Return a YAML file given by path, by path from the project's folder, or by its bare name in `configs/`.

    Raises:
        UserError: when there is none.
    """
    tried = [written_path(name), CONFIGS.parent / name, CONFIGS / folder / f"{name}.yaml"]
    for path in tried:
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml")))
    raise UserError(f"no file {name}: give a path, or one of configs/{folder}: {known}")
