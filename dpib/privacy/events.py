"""What a mechanism costs, as data: planned charges and the events that a ledger holds."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Relation = Literal["zero_out", "replace_one"]
Kind = Literal["gaussian", "noisy_max"]
Scope = Literal["train", "val"]


@dataclass(frozen=True)
class Charge:
    """One release that a synthesizer or a stage intends to make.

    `sigma` is the noise multiplier: standard deviation over the largest norm that one record may
    contribute. A Gaussian charge without sigma is free: calibration chooses it (see `calibrate.solve`).
    `epsilon` is the pure-DP price of a report-noisy-max selection. `rate` is the Poisson sampling
    probability and `count` the number of times that the mechanism runs. `cap` truncates a Poisson
    batch to a uniformly random subset of that size.
    """

    name: str
    kind: Kind
    label: str
    sigma: float | None = None
    epsilon: float | None = None
    rate: float = 1.0
    count: int = 1
    partition: str = ""
    cap: int | None = None

    def at(self, sigma: float) -> Self:
        """Return the same charge with its noise multiplier fixed."""
        return replace(self, sigma=sigma)

    def event(self, scope: Scope, n: int, relation: Relation) -> "Event":
        """Return the ledger entry for this charge on `n` records of `scope`.

        Raises:
            ValueError: when the charge was never calibrated or is malformed.
        """
        return Event(
            id=f"{scope}/{self.name}",
            kind=self.kind,
            scope=scope,
            n=n,
            relation=relation,
            sigma=self.sigma,
            epsilon=self.epsilon,
            rate=self.rate,
            count=self.count,
            partition=self.partition,
            cap=self.cap,
            label=self.label,
        )


class Event(BaseModel):
    """A charge bound to the records that it touches, as it stands in `privacy/ledger.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    id: str = Field(pattern=r"^(train|val)/[A-Za-z0-9_./-]+$")
    kind: Kind
    scope: Scope
    n: int = Field(gt=0)
    relation: Relation
    sigma: float | None = Field(default=None, gt=0)
    epsilon: float | None = Field(default=None, gt=0)
    rate: float = Field(default=1.0, gt=0, le=1)
    count: int = Field(default=1, gt=0)
    partition: str = ""
    cap: int | None = Field(default=None, gt=0)
    label: str = ""

    @model_validator(mode="after")
    def _priced_by_its_kind(self) -> Self:
        if not self.id.startswith(f"{self.scope}/"):
            raise ValueError(f"event {self.id!r} does not belong to scope {self.scope!r}")
        gaussian = self.kind == "gaussian"
        if (self.sigma is not None) != gaussian or (self.epsilon is not None) == gaussian:
            needs = "a sigma and no epsilon" if gaussian else "an epsilon and no sigma"
            raise ValueError(f"event {self.id!r} of kind {self.kind} needs {needs}")
        if self.kind == "noisy_max" and self.rate != 1.0:
            raise ValueError(f"event {self.id!r}: a sub-sampled noisy_max is not supported")
        return self
