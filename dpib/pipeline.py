"""The stages as tracked runs, alone or one after the other as `main`; all in this process."""

import hashlib
import json
from pathlib import Path

from dpib.config import Config, from_text
from dpib.config.fingerprint import stage_slice
from dpib.config.schema import flatten
from dpib.data.catalog import Card, data_root, find_card
from dpib.data.prepare import prepare
from dpib.data.synthetic import read_gen
from dpib.errors import UserError
from dpib.privacy.ledger import Account
from dpib.runner import Result, Stage, execute
from dpib.sensitive import Sensitive
from dpib.stages.baseline import baseline
from dpib.stages.context import Context
from dpib.stages.evaluate import evaluate
from dpib.stages.fidelity import require_weights
from dpib.stages.generate import GEN, SAMPLE, generate
from dpib.stages.pretrain import FINAL, pretrain
from dpib.stages.train import LEDGER, train
from dpib.tracking import Run, Store


def run_prepare(config: Config, card: Card, store: Store, source: Path | None, verify: bool) -> Result:
    """Build the data root's copy of a data set; always does it anew."""

    def work(context: Context, run: Run) -> dict[str, float]:
        splits = prepare(card, source, data_root(config.data_root), context.log.say, verify)
        return {f"data/{split}": float(len(images)) for split, images in splits.items()}

    return execute(Stage("prepare", work), config.model_copy(update={"reuse": False}), card, store)


def run_pretrain(config: Config, card: Card, store: Store, parent: str | None = None) -> Result:
    """Pretrain on `config.public`.

    Raises:
        UserError: when no public data set is configured.
    """
    if config.public is None:
        raise UserError("nothing to pretrain on: give -P public=<data set or image folder>")
    folder = Path(config.public).expanduser().is_dir()
    contexts = {} if folder else {"public": find_card(config.public, data_root(config.data_root))}
    return execute(
        Stage("pretrain", lambda context, _: pretrain(context), contexts=contexts), config, card, store, parent
    )


def run_train(
    config: Config, card: Card, store: Store, pretrain_run: str | None = None, parent: str | None = None
) -> Result:
    """Train within the budget, from a pretraining run if there is one."""
    sensitive = Sensitive(config, card)
    pretrained = store.fetch(pretrain_run, str(FINAL)) if pretrain_run else None
    inputs = (pretrain_run,) if pretrain_run else ()
    stage = Stage(
        "train",
        lambda context, _: train(context, sensitive, pretrained),
        inputs,
        {"sensitive-train": card},
        sensitive.digest,
    )
    return execute(stage, config, card, store, parent)


def run_generate(config: Config, card: Card, store: Store, train_run: str, parent: str | None = None) -> Result:
    """Draw the synthetic set of a training run."""
    account = Account.parse(store.fetch(train_run, str(LEDGER)).read_text())
    trained = store.fetch(train_run, str(FINAL))
    stage = Stage("generate", lambda context, _: generate(context, account, trained), (train_run,))
    return execute(stage, config, card, store, parent)


def run_evaluate(config: Config, card: Card, store: Store, gen: Path, source: str, parent: str | None = None) -> Result:
    """Judge the synthetic set in `gen`; `source` is the run or the digest that it came from."""
    require_weights(config)
    sensitive = Sensitive(config, card)
    images, statement = read_gen(gen, card)
    account = inherited(statement, sensitive.account(), gen)

    def work(context: Context, run: Run) -> dict[str, float]:
        if not account.events:
            context.log.say("evaluate: this set states no training cost for this data: it gets no epsilon of its own")
        return evaluate(context, sensitive, images, account)

    contexts = {"sensitive-train": card, "sensitive-test": card}
    stage = Stage("evaluate", work, (source,), contexts, sensitive.digest, private_snapshot=True)
    return execute(stage, config, card, store, parent)


def inherited(statement: dict[str, object] | None, fresh: Account, gen: Path) -> Account:
    """Return the ledger that came with a synthetic set if it speaks of this data set, else a fresh one.

    Raises:
        UserError: when the statement's ledger is malformed.
    """
    if statement is None or "ledger" not in statement:
        return fresh
    try:
        account = Account.parse(json.dumps(statement["ledger"]))
    except UserError as error:
        raise UserError(f"{gen}: {error}") from None
    return account if account.dataset == fresh.dataset else fresh


def run_baseline(config: Config, card: Card, store: Store) -> Result:
    """Run the utility protocol on the real images: a reference without privacy."""
    sensitive = Sensitive(config, card)
    stage = Stage(
        "baseline",
        lambda context, _: baseline(context, sensitive),
        contexts={"sensitive-train": card, "sensitive-test": card},
        digest=sensitive.digest,
        private=False,
        private_snapshot=True,
    )
    return execute(stage, config, card, store)


def run_main(config: Config, card: Card, store: Store, parent: str | None = None) -> Result:
    """Run every stage as children of one run, which carries their metrics, the picture and the papers."""
    require_weights(config)

    def work(context: Context, run: Run) -> dict[str, float]:
        parent = run.id
        pretrained = run_pretrain(config, card, store, parent) if config.public else None
        trained = run_train(config, card, store, pretrained.run_id if pretrained else None, parent)
        generated = run_generate(config, card, store, trained.run_id, parent)
        gen = store.fetch(generated.run_id, str(GEN))
        judged = run_evaluate(config, card, store, gen, generated.run_id, parent)
        stages = {"pretrain": pretrained, "train": trained, "generate": generated, "evaluate": judged}
        run.tag({f"dpib.run.{name}": result.run_id for name, result in stages.items() if result})
        for child, path in ((generated, str(SAMPLE)), *((judged, p) for p in _PAPERS)):
            target = context.artifacts / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.fetch(child.run_id, path).read_bytes())
        return {k: v for result in stages.values() if result for k, v in result.metrics.items()}

    stage = Stage("main", work, (), {"sensitive-train": card}, Sensitive(config, card).digest)
    return execute(stage, config, card, store, parent)


_PAPERS = (str(LEDGER), "privacy/statement.md", "report.json")


def continue_from(run: str, stage: str, store: Store, overrides: dict[str, str]) -> tuple[Config, Card, str]:
    """Return the configuration of an upstream run with `overrides`, its card, and the run's own id.

    Raises:
        UserError: when the run is of another stage or unfinished, or an override would change what it did.
    """
    run_id = store.follow(run)
    found = store.tags(run_id).get("dpib.stage")
    if found == "main":
        run_id = store.tags(run_id).get(f"dpib.run.{stage}", run_id)
        found = store.tags(run_id).get("dpib.stage")
    if found != stage:
        raise UserError(f"run {run} is {f'a {found} run' if found else 'no run of dpib'}, a {stage} run is needed")
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


def _upstream(stage: str) -> tuple[str, ...]:
    return {"pretrain": ("pretrain",), "train": ("train",), "generate": ("train", "generate")}[stage]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        UserError: when it does not exist.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: give -P gen=<file.npz>")
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
