"""From public parts to synthetic images as tracked runs, one stage after the other.

Its untracked twin, in a folder, is `dpib.stages.course`.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from dpib import checkpoint
from dpib.config import Config
from dpib.config.kinds import KINDS
from dpib.config.sense import require_pretraining
from dpib.data.catalog import Card, data_root, find_card
from dpib.errors import UserError
from dpib.overlap import refuse_alike
from dpib.paths import written_path
from dpib.privacy.ledger import Account
from dpib.public import public_digest
from dpib.runner import Result, Stage, execute
from dpib.sensitive import Sensitive, fresh_account
from dpib.stages.build import FINAL, make, part_settings
from dpib.stages.context import Context
from dpib.stages.generate import generate
from dpib.stages.part import fit_part, require_public
from dpib.stages.pretrain import pretrain
from dpib.stages.query import asked, query
from dpib.stages.solving import calibrated
from dpib.stages.taken import sources
from dpib.stages.train import train
from dpib.tracking import Run, Store
from dpib.upstream import file_digest


@dataclass(frozen=True)
class Start:
    """What a training starts from: a pretraining run, or anybody's checkpoint file of the same network."""

    run: str | None = None
    file: Path | None = None

    def inputs(self) -> tuple[str, ...]:
        """Return what the start adds to a fingerprint."""
        if self.file is not None:
            return (file_digest(self.file, "checkpoint=<file.safetensors>"),)
        return (self.run,) if self.run else ()

    def path(self, store: Store) -> Path | None:
        """Return the checkpoint, fetched if need be."""
        return store.fetch(self.run, str(FINAL)) if self.run else self.file


@dataclass(frozen=True)
class Before:
    """The stages before a training, as far as its method has them."""

    parts: dict[str, Result] = field(default_factory=dict)
    query: Result | None = None
    pretrain: Result | None = None

    def start(self) -> Start:
        """Return what the training starts from."""
        return Start(self.pretrain.run_id if self.pretrain else None)

    def stages(self) -> dict[str, Result]:
        """Return all of them by their names."""
        found = {f"part-{name}": result for name, result in self.parts.items()}
        return found | {k: v for k, v in (("query", self.query), ("pretrain", self.pretrain)) if v is not None}


def run_before(config: Config, card: Card, store: Store, parent: str | None = None) -> Before:
    """Do, or find done, all that comes before the training: parts, then the query, then pretraining."""
    parts, queried = _asked(config, card, store, parent)
    if config.public is None and queried is None:
        return Before(parts)
    return Before(parts, queried, _run_pretrain(config, card, store, Before(parts, queried), parent))


def run_pretrain(config: Config, card: Card, store: Store) -> Result:
    """Pretrain, after all that comes before it.

    Raises:
        UserError: when there is nothing to learn from.
    """
    found = run_before(config, card, store).pretrain
    if found is None:
        raise UserError("nothing to pretrain on: give -P public=<data set or image folder>")
    return found


def run_query(config: Config, card: Card, store: Store) -> Result:
    """Make the releases that come before pretraining, after fitting the parts that they take.

    Raises:
        UserError: when the method has none.
    """
    found = _asked(config, card, store, None)[1]
    if found is None:
        raise UserError(f"{config.method} makes no private query before its training: there is nothing to do")
    return found


def _asked(config: Config, card: Card, store: Store, parent: str | None) -> tuple[dict[str, Result], Result | None]:
    if config.public is not None:
        refuse_alike(config.public, card, data_root(config.data_root))
    parts = {name: run_part(name, config, card, store, parent) for name in config.parts}
    synthesizer, account = make(config, card, torch.device("cpu")), fresh_account(config, card)
    if not asked(synthesizer.plan(account.scopes["train"])):
        return parts, None
    plan = asked(calibrated(synthesizer, account))
    sensitive = Sensitive(config, card)

    def work(context: Context, _: Run | None) -> dict[str, float]:
        return query(replace(context, parts=_fetched(parts, store)), sensitive)

    # What it costs decides a query, not the budget of which that is a part.
    cost = json.dumps([asdict(charge) for charge in plan], sort_keys=True)
    inputs = (*(part.run_id for part in parts.values()), cost)
    stage = Stage(KINDS["query"], work, inputs, {"sensitive-train": card}, sensitive.identity)
    return parts, execute(stage, config, card, store, parent)


def run_part(name: str, config: Config, card: Card, store: Store, parent: str | None = None) -> Result:
    """Fit one of the configured parts to the public images, or take it from its file.

    Raises:
        UserError: when there is no such part, or nothing to fit it to.
    """
    settings = part_settings(config, name)
    files = (("file", settings.file), ("weights", settings.weights))
    inputs = [file_digest(written_path(file), f"parts.{name}.{key}=<file>") for key, file in files if file is not None]
    contexts = {}
    if settings.file is None:
        public = require_public(config.public, name)
        refuse_alike(public, card, data_root(config.data_root))
        inputs.append(public_digest(public, config.data_root))
        contexts = _public(config)
    stage = Stage(
        KINDS["part"],
        lambda context, _: fit_part(context, name),
        tuple(inputs),
        contexts,
        label=f"part-{name}",
        part=name,
    )
    return execute(stage, config, card, store, parent)


def _run_pretrain(config: Config, card: Card, store: Store, before: Before, parent: str | None) -> Result:
    sensitive = Sensitive(config, card)
    inputs = tuple(result.run_id for result in before.stages().values())
    if config.public is not None:
        inputs = (*inputs, public_digest(config.public, config.data_root))

    def work(context: Context, _: Run | None) -> dict[str, float]:
        queried = store.fetch(before.query.run_id, str(FINAL)) if before.query is not None else None
        return pretrain(replace(context, parts=_fetched(before.parts, store)), sensitive, queried)

    return execute(Stage(KINDS["pretrain"], work, inputs, _public(config)), config, card, store, parent)


def _fetched(parts: dict[str, Result], store: Store) -> dict[str, Path]:
    return {name: store.fetch(result.run_id, str(FINAL)) for name, result in parts.items()}


def _public(config: Config) -> dict[str, Card]:
    """Return the card of the public set, as a run names what it read; a folder has none."""
    if config.public is None or written_path(config.public).is_dir():
        return {}
    return {"public": find_card(config.public, data_root(config.data_root))}


def run_train(
    config: Config, card: Card, store: Store, start: Start | None = None, parent: str | None = None
) -> Result:
    """Train within the budget, from `start` if there is one."""
    require_pretraining(config, start not in (None, Start()))
    sensitive, begin = Sensitive(config, card), start or Start()
    stage = Stage(
        KINDS["train"],
        lambda context, _: train(context, sensitive, begin.path(store)),
        begin.inputs(),
        {"sensitive-train": card},
        sensitive.identity,
    )
    return execute(stage, config, card, store, parent)


def run_generate(config: Config, card: Card, store: Store, source_run: str, parent: str | None = None) -> Result:
    """Draw the synthetic set of a training run, or of a pretraining run, which has spent what its query did."""

    def work(context: Context, run: Run | None) -> dict[str, float]:
        file = store.fetch(source_run, str(FINAL))
        return generate(context, _account(config, card, file), file)

    return execute(Stage(KINDS["generate"], work, (source_run,)), config, card, store, parent)


def _account(config: Config, card: Card, file: Path) -> Account:
    """Return the ledger in a checkpoint, or a fresh one where it cost nothing."""
    ledger = checkpoint.text(file, "ledger")
    if ledger is not None:
        return Account.parse(ledger)
    return fresh_account(config, card).model_copy(update={"public": sources(file)})
