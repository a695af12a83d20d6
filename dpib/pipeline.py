"""The stages as tracked runs, alone or one after the other as `main`; all in this process."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from dpib.config import Config, from_text
from dpib.config.fingerprint import stage_slice
from dpib.config.schema import flatten
from dpib.config.sense import require_pretraining
from dpib.data.catalog import Card, data_root, find_card
from dpib.data.prepare import prepare
from dpib.data.synthetic import doubts, read_gen
from dpib.errors import UserError, absence
from dpib.overlap import refuse_alike
from dpib.paths import written_path
from dpib.privacy.events import Plan
from dpib.privacy.ledger import LEDGER, Account
from dpib.privacy.lineage import about
from dpib.runner import Result, Stage, execute
from dpib.sensitive import Sensitive, fresh_account
from dpib.spendings import TAG, Spendings, labelled_digest
from dpib.stages.audit import audit
from dpib.stages.baseline import baseline
from dpib.stages.context import Context
from dpib.stages.evaluate import evaluate
from dpib.stages.fidelity import require_weights
from dpib.stages.generate import GEN, SAMPLE, generate, require_memory
from dpib.stages.judge import require_enough
from dpib.stages.pretrain import FINAL, make, pretrain, sources
from dpib.stages.train import calibrated, train
from dpib.tracking import Run, Store


def run_prepare(
    config: Config, card: Card, store: Store, source: Path | None, verify: bool, replace: bool = False
) -> Result:
    """Build the data root's copy of a data set; always does it anew."""

    def work(context: Context, run: Run | None) -> dict[str, float]:
        splits = prepare(card, source, data_root(config.data_root), context.log.say, verify, replace)
        return {f"data/{split}": float(len(images)) for split, images in splits.items()}

    return execute(Stage("prepare", work, discreet=True), config.model_copy(update={"reuse": False}), card, store)


def run_pretrain(config: Config, card: Card, store: Store, parent: str | None = None) -> Result:
    """Pretrain on `config.public`.

    Raises:
        UserError: when no public data set is configured.
    """
    if config.public is None:
        raise UserError("nothing to pretrain on: give -P public=<data set or image folder>")
    refuse_alike(config.public, card, data_root(config.data_root))
    folder = written_path(config.public).is_dir()
    contexts = {} if folder else {"public": find_card(config.public, data_root(config.data_root))}
    stage = Stage("pretrain", lambda context, _: pretrain(context), contexts=contexts, parallel=True, any_dataset=True)
    return execute(stage, config, card, store, parent)


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


def require_budget(config: Config, card: Card) -> None:
    """Refuse a plan that its budget cannot pay, before anything is pretrained for it.

    Raises:
        UserError: when it cannot.
    """
    account = fresh_account(config, card)
    plan = Plan(calibrated(make(config, card, torch.device("cpu")), account))
    account.require(plan.events("train", account.scopes["train"], account.relation))


def run_train(
    config: Config, card: Card, store: Store, start: Start | None = None, parent: str | None = None
) -> Result:
    """Train within the budget, from `start` if there is one."""
    require_pretraining(config, start not in (None, Start()))
    sensitive, begin = Sensitive(config, card), start or Start()
    stage = Stage(
        "train",
        lambda context, _: train(context, sensitive, begin.path(store)),
        begin.inputs(),
        {"sensitive-train": card},
        sensitive.identity,
        parallel=True,
    )
    return execute(stage, config, card, store, parent)


def run_generate(config: Config, card: Card, store: Store, source_run: str, parent: str | None = None) -> Result:
    """Draw the synthetic set of a training run, or of a pretraining run, which has spent nothing."""

    def work(context: Context, run: Run | None) -> dict[str, float]:
        checkpoint_file = store.fetch(source_run, str(FINAL))
        if store.tags(source_run).get("dpib.stage") == "pretrain":
            account = fresh_account(config, card).model_copy(update={"public": sources(checkpoint_file)})
        else:
            account = Account.parse(store.fetch(source_run, str(LEDGER)).read_text())
        return generate(context, account, checkpoint_file)

    return execute(Stage("generate", work, (source_run,), parallel=True), config, card, store, parent)


def run_evaluate(config: Config, card: Card, store: Store, gen: Path, source: str, parent: str | None = None) -> Result:
    """Judge the synthetic set in `gen`; `source` is the run or the digest that it came from."""
    require_weights(config)
    sensitive = Sensitive(config, card)
    images, statement = read_gen(gen, card)
    require_enough(config, len(images))
    stated = inherited(statement, card.name, gen)
    account = stated or sensitive.account()
    digest = labelled_digest(images)

    def work(context: Context, run: Run | None) -> dict[str, float]:
        assert run is not None
        for doubt in doubts(images, statement, card):
            context.log.say(f"evaluate: warning: {doubt}")
        if stated is None:
            context.log.say("evaluate: this set states no training cost for this data: it gets no epsilon of its own")
        name = context.named(run.id[:12])
        purse = Spendings(sensitive, store, run.id, tuple(account.origins), name, digest)
        run.tag({TAG: ",".join(purse.own)})
        return evaluate(context, sensitive, images, account, stated is not None, purse)

    contexts = {"sensitive-train": card, "sensitive-test": card}
    stage = Stage("evaluate", work, (source,), contexts, sensitive.identity, private_snapshot=True)
    return execute(stage, config, card, store, parent)


def inherited(statement: dict[str, object] | None, dataset: str, gen: Path) -> Account | None:
    """Return what the ledger that came with a synthetic set says of this data set, or None if it says nothing.

    Raises:
        UserError: when the statement's ledger is malformed.
    """
    if statement is None or "ledger" not in statement:
        return None
    try:
        return about(Account.parse(json.dumps(statement["ledger"])), dataset)
    except UserError as error:
        raise UserError(f"{gen}: {error}") from None


def run_baseline(config: Config, card: Card, store: Store) -> Result:
    """Run the utility protocol on the real images: a reference without privacy."""
    sensitive = Sensitive(config, card)
    stage = Stage(
        "baseline",
        lambda context, _: baseline(context, sensitive),
        contexts={"sensitive-train": card, "sensitive-test": card},
        identity=sensitive.identity,
        private=False,
        private_snapshot=True,
    )
    return execute(stage, config, card, store)


def run_audit(config: Config, card: Card, store: Store, black: bool) -> Result:
    """Attack the mechanisms of a method under one configuration; always does it anew, and reads no sensitive image."""
    account = fresh_account(config, card)
    stage = Stage("audit", lambda context, _: audit(context, account, black))
    return execute(stage, config.model_copy(update={"reuse": False}), card, store)


def run_main(config: Config, card: Card, store: Store, start: Start | None = None, parent: str | None = None) -> Result:
    """Run every stage as children of one run, which carries their metrics, the picture and the papers.

    With a `start` nothing is pretrained.
    """
    require_weights(config)
    if config.public is not None:
        refuse_alike(config.public, card, data_root(config.data_root))
    require_pretraining(config, start not in (None, Start()))
    require_memory(config, card)
    require_enough(config, config.generate.images)
    require_budget(config, card)

    def work(context: Context, run: Run | None) -> dict[str, float]:
        own = run.id if run else None
        pretrained = run_pretrain(config, card, store, own) if config.public and not start else None
        trained = run_train(config, card, store, start or Start(pretrained.run_id if pretrained else None), own)
        generated = run_generate(config, card, store, trained.run_id, own)
        if run is None:
            return {}
        gen = store.fetch(generated.run_id, str(GEN))
        judged = run_evaluate(config, card, store, gen, generated.run_id, own)
        stages = {"pretrain": pretrained, "train": trained, "generate": generated, "evaluate": judged}
        run.tag({f"dpib.run.{name}": result.run_id for name, result in stages.items() if result})
        for child, path in ((generated, str(SAMPLE)), *((judged, p) for p in _PAPERS)):
            target = context.artifacts / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.fetch(child.run_id, path).read_bytes())
        return {k: v for result in stages.values() if result for k, v in result.metrics.items()}

    inputs = start.inputs() if start else ()
    identity = Sensitive(config, card).identity
    stage = Stage("main", work, inputs, {"sensitive-train": card}, identity, parallel=True)
    return execute(stage, config, card, store, parent)


_PAPERS = (str(LEDGER), "privacy/statement.md", "report.json")


def continue_from(run: str, stage: str, store: Store, overrides: dict[str, str]) -> tuple[Config, Card, str]:
    """Return the configuration of an upstream run with `overrides`, its card, and the run's own id.

    Raises:
        UserError: when the run is of another stage or unfinished, or an override would change what it did.
    """
    run_id = find_stage(run, stage, store)
    text = store.fetch(run_id, "config.yaml").read_text()
    config, card = from_text(text, overrides, f"config of run {run_id}")
    earlier, _ = from_text(text, {}, f"config of run {run_id}")
    for name in _upstream(stage):
        before, after = (flatten(stage_slice(name, c)) for c in (earlier, config))
        changed = [key for key in after if before.get(key) != after[key]]
        if changed:
            raise UserError(
                f"{changed[0]} belongs to the {name} stage, which run {run_id} did with {before.get(changed[0])}: "
                f"leave it out, or start again from {name}"
            )
    return config, card, run_id


def find_stage(run: str, stage: str, store: Store) -> str:
    """Return the id of the `stage` run that `run` is, or that the main run `run` holds.

    Raises:
        UserError: when it is neither.
    """
    run_id = store.follow(run)
    found = store.tags(run_id).get("dpib.stage")
    if found == "main":
        run_id = store.tags(run_id).get(f"dpib.run.{stage}", run_id)
        found = store.tags(run_id).get("dpib.stage")
    if found != stage:
        raise UserError(f"run {run} is {f'a {found} run' if found else 'no run of dpib'}, a {stage} run is needed")
    return run_id


def _upstream(stage: str) -> tuple[str, ...]:
    return {"pretrain": ("pretrain",), "train": ("train",), "generate": ("train", "generate")}[stage]


def file_digest(path: Path, key: str = "gen=<file.npz>") -> str:
    """Return the SHA-256 of a file.

    Raises:
        UserError: when it does not exist.
    """
    if not path.is_file():
        raise UserError(f"{path} {absence(path)}: give -P {key}")
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
