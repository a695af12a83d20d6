"""Every configuration key, its type and its meaning. What a method adds stands in its own `Settings`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from dpib import registry
from dpib.metrics.schedule import Schedule
from dpib.nn.architectures import Classifiers
from dpib.precision import Precision
from dpib.section import PartSettings, Positive, Section, Text

Profile = Literal["smoke", "fast", "paper"]


class Data(Section):
    """How the sensitive training set is cut."""

    holdout: int | None = Field(default=None, ge=0, description="images held out for selection; none: see docs")


class Generate(Section):
    """The synthetic set."""

    images: Positive
    labels: Literal["balanced", "estimated"] = "balanced"
    batch: Positive = 1000


class Eval(Section):
    """How the synthetic set is judged."""

    mode: Literal["val", "syn", "sen"]
    classifiers: Classifiers
    schedule: Schedule
    images: Positive | None = Field(default=None, description="synthetic images that train the classifiers")
    syn_holdout: float = Field(default=1 / 12, gt=0, lt=1, description="share that selects in mode syn")
    metrics: list[str]
    embedding: Literal["inception", "random"]
    inception_weights: Text | None = None
    references: list[Literal["train", "test"]]
    max_synthetic: Positive | None = None
    max_real: Positive | None = None
    batch: Positive = 100


class Config(Section):
    """A whole run. `recipe` is the method's own part; in files and on the command line its sections stand
    beside the others (`train.lr`, `network.name`), because a user need not know who reads a key.
    """

    method: Text
    dataset: Text
    public: Text | None
    public_overlap: Literal["declared"] | None = Field(
        default=None, description="declared: public images may be sensitive ones, and the statement shall say so"
    )
    epsilon: float = Field(gt=0)
    delta: float | None = Field(default=None, gt=0, lt=1)
    large_delta: bool = Field(default=False, description="accept a delta above 0.01")
    relation: Literal["zero_out", "replace_one"]
    accountant: Literal["pld", "rdp", "prv"]
    seed: int = Field(ge=0)
    profile: Profile
    note: Text | None = Field(default=None, max_length=200)
    device: Literal["auto", "cpu", "cuda"]
    precision: Precision = Field(
        default="auto", description="of passes through networks; auto: bf16 where it is faster"
    )
    processes: Positive = 1
    oversubscribe: bool = False
    data_root: Text | None = None
    reuse: bool
    resume: bool
    yardstick: Literal["all"] | None
    oracle: bool
    unsafe_noise_seed: int | None = None
    data: Data
    generate: Generate
    eval: Eval
    parts: dict[str, Annotated[SerializeAsAny[PartSettings], BeforeValidator(registry.chosen("part"))]] = Field(
        default={}, description="networks trained on public images, by the names that the recipe asks for them by"
    )
    synthesizer: Text
    recipe: SerializeAsAny[Section]

    def nested(self) -> dict[str, Any]:
        """Return the configuration as files hold it: the recipe's sections at the top level."""
        tree = self.model_dump(mode="json")
        return {**{k: v for k, v in tree.items() if k != "recipe"}, **tree["recipe"]}

    def flat(self) -> dict[str, Any]:
        """Return the configuration as dotted keys, e.g. ``{"train.lr": 0.01}``."""
        return flatten(self.nested())


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
