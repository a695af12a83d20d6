"""How many trials a private random search makes: drawn first, secret, independent of the data.

Papernot and Steinke, Hyperparameter Tuning with Renyi Differential Privacy, ICLR 2022 (arXiv 2110.03620).
The trials are independent draws of one mechanism, and only the best of them becomes visible.
"""

from __future__ import annotations  # the noise source is named, not loaded: verifying a ledger needs no torch

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.optimize import brentq

if TYPE_CHECKING:
    from dpib.privacy.rng import NoiseSource


class Stopping(BaseModel):
    """The law of the number of trials K.

    `negative_binomial`, truncated to K >= 1, with eta > -1 and gamma in (0, 1): eta = 0 is logarithmic,
    eta = 1 geometric. `poisson` with mean mu, where K may be 0: then nothing is released.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    law: Literal["negative_binomial", "poisson"]
    eta: float | None = Field(default=None, gt=-1)
    gamma: float | None = Field(default=None, gt=0, lt=1)
    mu: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _has_its_parameters(self) -> Self:
        poisson = self.law == "poisson"
        if (self.mu is not None) != poisson or {self.eta is None, self.gamma is None} != {poisson}:
            needs = "mu alone" if poisson else "eta and gamma alone"
            raise ValueError(f"a number of trials by the {self.law} law needs {needs}")
        return self

    @classmethod
    def poisson(cls, mean: float) -> Self:
        """Return the Poisson law of that mean."""
        return cls(law="poisson", mu=mean)

    @classmethod
    def negative_binomial(cls, mean: float, eta: float) -> Self:
        """Return the truncated negative binomial law of that mean (above 1): eta 0 logarithmic, 1 geometric.

        Raises:
            ValueError: when the mean is not above 1.
        """
        if not mean > 1:
            raise ValueError(f"a truncated negative binomial number of trials has a mean above 1, not {mean:g}")

        def excess(log_gamma: float) -> float:
            return cls(law="negative_binomial", eta=eta, gamma=math.exp(log_gamma)).mean / mean - 1

        return cls(law="negative_binomial", eta=eta, gamma=math.exp(brentq(excess, -100.0, -1e-9)))

    @property
    def mean(self) -> float:
        """The expected number of trials."""
        if self.mu is not None:
            return self.mu
        eta, gamma = self._shape
        if eta == 0:
            return (1 / gamma - 1) / -math.log(gamma)
        return eta * (1 - gamma) / (gamma * -math.expm1(eta * math.log(gamma)))

    def pmf(self) -> Iterator[float]:
        """Yield P[K = 0], P[K = 1], ... without end."""
        if self.mu is not None:
            term, k = math.exp(-self.mu), 0
            while True:
                yield term
                k += 1
                term *= self.mu / k
        eta, gamma = self._shape
        yield 0.0
        # Each term is the last one times (1 - gamma) (k + eta) / (k + 1), and the first makes them sum to 1.
        term = (1 - gamma) / (-math.log(gamma) if eta == 0 else math.expm1(-eta * math.log(gamma)) / eta)
        k = 1
        while True:
            yield term
            term *= (1 - gamma) * (k + eta) / (k + 1)
            k += 1

    def draw(self, noise: NoiseSource) -> int:
        """Return K, drawn from the privacy noise: a known K would void the guarantee."""
        level, reached = float(noise.uniform(1)[0]), 0.0
        for k, probability in enumerate(self.pmf()):
            reached += probability
            # Rounding may keep the sum below the level for ever; from there on the terms only shrink.
            if reached >= level or (k > self.mean and probability < 1e-300):
                return k
        raise AssertionError("unreachable")

    @property
    def _shape(self) -> tuple[float, float]:
        assert self.eta is not None
        assert self.gamma is not None
        return self.eta, self.gamma
