"""What a mechanism costs, as data: planned charges and the events that a ledger holds.

The kinds, and the parameters of each:

- `gaussian`: sigma; Poisson-sampled where rate < 1, and then perhaps truncated to `cap` records a batch
- `gaussian_wor`: sigma; a fixed share `rate` of the records, drawn without replacement
- `laplace`: scale
- `noisy_max`: epsilon; report-noisy-max, the index only
- `pure`: epsilon; any other mechanism that is epsilon-DP
- `random_stopping`: the best of a random number (`stopping`) of independent trials, each of which is `base`

`sigma` and `scale` are noise over the largest (Euclidean, L1) norm that one record may contribute; what
the neighbouring relation makes of it is the accountant's business. `epsilon` already is the price under
the ledger's relation.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dpib.privacy.stopping import Stopping

Relation = Literal["zero_out", "replace_one"]
Kind = Literal["gaussian", "gaussian_wor", "laplace", "noisy_max", "pure", "random_stopping"]
Scope = Literal["train", "val"]
When = Literal["query", "train"]

_PRICED_BY: dict[Kind, str] = {
    "gaussian": "sigma",
    "gaussian_wor": "sigma",
    "laplace": "scale",
    "noisy_max": "epsilon",
    "pure": "epsilon",
    "random_stopping": "stopping",
}
_SAMPLED = ("gaussian", "gaussian_wor")


@dataclass(frozen=True)
class Charge:
    """One release that a synthesizer or a stage intends to make: an `Event` before it meets its records.

    A Gaussian charge without sigma is free: calibration chooses it (see `calibrate.solve`). `rate` is the
    sampling probability of a record, `count` the number of times that the mechanism runs. `base` are the
    charges of one trial of a `random_stopping` selection. `stage` says when a synthesizer makes it: in a query before
    pretraining, or in training itself. `counts` says that the release tells how the classes are shared out, so that
    images can be drawn by `generate.labels=estimated`.
    """

    name: str
    kind: Kind
    label: str
    sigma: float | None = None
    epsilon: float | None = None
    rate: float = 1.0
    count: int = 1
    cap: int | None = None
    scale: float | None = None
    base: "tuple[Charge, ...]" = ()
    stopping: Stopping | None = None
    stage: When = "train"
    counts: bool = False

    @property
    def free(self) -> bool:
        """Whether calibration has still to choose a sigma, here or in a trial."""
        own = self.kind in ("gaussian", "gaussian_wor") and self.sigma is None
        return own or any(charge.free for charge in self.base)

    def at(self, sigma: float) -> Self:
        """Return the same charge with every free sigma fixed at this one."""
        if not self.free:
            return self
        if self.base:
            return replace(self, base=tuple(charge.at(sigma) for charge in self.base))
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
            cap=self.cap,
            scale=self.scale,
            base=tuple(charge.event(scope, n, relation) for charge in self.base),
            stopping=self.stopping,
            label=self.label,
        )


@dataclass(frozen=True)
class Plan:
    """Calibrated charges under the names that releases are asked for by, and what the ledger puts before these."""

    charges: tuple[Charge, ...] = ()
    prefix: str = ""

    def named(self) -> list[Charge]:
        """Return the charges as the ledger names them."""
        return [replace(charge, name=self.prefix + charge.name) for charge in self.charges]

    def events(self, scope: Scope, n: int, relation: Relation) -> "list[Event]":
        """Return the ledger entries of all charges on `n` records of `scope`."""
        return [charge.event(scope, n, relation) for charge in self.named()]


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
    scale: float | None = Field(default=None, gt=0)
    rate: float = Field(default=1.0, gt=0, le=1)
    cap: int | None = Field(default=None, gt=0)
    count: int = Field(default=1, gt=0)
    base: "tuple[Event, ...]" = ()
    stopping: Stopping | None = None
    label: str = ""
    # Ledgers of the first version say so of every event; a price for a part of a scope is one that no release keeps to.
    partition: Literal[""] = Field(default="", exclude=True)

    def on(self, scope: Scope, n: int) -> Self:
        """Return the same event, under the same id, as one on `n` records of `scope`."""
        base = tuple(event.on(scope, n) for event in self.base)
        return self.model_copy(update={"scope": scope, "n": n, "base": base})

    @model_validator(mode="after")
    def _priced_by_its_kind(self) -> Self:
        if not self.id.startswith(f"{self.scope}/"):
            raise ValueError(f"event {self.id!r} does not belong to scope {self.scope!r}")
        price = _PRICED_BY[self.kind]
        given = {name for name in _PRICED_BY.values() if getattr(self, name) is not None}
        if given != {price}:
            found = ", ".join(sorted(given)) or "none"
            raise ValueError(f"event {self.id!r} of kind {self.kind} needs a {price} and no other price, not {found}")
        return self

    @model_validator(mode="after")
    def _sampled_by_its_kind(self) -> Self:
        if self.rate < 1 and self.kind not in _SAMPLED:
            raise ValueError(f"event {self.id!r}: a sub-sampled {self.kind} is not supported")
        if self.cap is not None and (self.kind != "gaussian" or self.rate == 1 or self.cap > self.n):
            raise ValueError(f"event {self.id!r}: a cap truncates a Poisson-sampled gaussian, to at most n records")
        return self

    @model_validator(mode="after")
    def _trials_touch_the_same_records(self) -> Self:
        if bool(self.base) != (self.kind == "random_stopping"):
            raise ValueError(f"event {self.id!r}: base is what one trial of a random_stopping charges, and only that")
        for event in self.base:
            if event.kind == "random_stopping":
                raise ValueError(f"event {event.id!r}: a random_stopping within another is not supported")
            if (event.scope, event.n, event.relation) != (self.scope, self.n, self.relation):
                raise ValueError(f"event {event.id!r} does not touch the same records as its {self.id!r}")
        return self
