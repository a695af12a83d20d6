"""The stages around a training as tracked runs, alone or all in order as `main`; all in this process."""

from pathlib import Path

from dpib.chain import Before, Start, run_before, run_generate, run_train
from dpib.config import Config
from dpib.config.kinds import KINDS
from dpib.config.sense import require_pretraining
from dpib.data.catalog import Card, data_root
from dpib.data.prepare import prepare
from dpib.data.synthetic import doubts, read_gen
from dpib.overlap import refuse_alike
from dpib.privacy.ledger import LEDGER, STATEMENT
from dpib.runner import Result, Stage, execute
from dpib.sensitive import Sensitive, fresh_account
from dpib.spendings import TAG, Spendings, labelled_digest
from dpib.stages.audit import audit
from dpib.stages.baseline import baseline
from dpib.stages.context import Context
from dpib.stages.evaluate import evaluate
from dpib.stages.fidelity import require_weights
from dpib.stages.generate import GEN, SAMPLE, require_memory
from dpib.stages.judge import require_enough
from dpib.stages.solving import require_budget, require_proportions
from dpib.stated import stated
from dpib.tracking import Run, Store


def run_prepare(
    config: Config, card: Card, store: Store, source: Path | None, verify: bool, replace: bool = False
) -> Result:
    """Build the data root's copy of a data set; always does it anew."""

    def work(context: Context, run: Run | None) -> dict[str, float]:
        splits = prepare(card, source, data_root(config.data_root), context.log.say, verify, replace)
        return {f"data/{split}": float(len(images)) for split, images in splits.items()}

    return execute(Stage(KINDS["prepare"], work), config.model_copy(update={"reuse": False}), card, store)


def run_evaluate(config: Config, card: Card, store: Store, gen: Path, source: str, parent: str | None = None) -> Result:
    """Judge the synthetic set in `gen`; `source` is the run or the digest that it came from."""
    require_weights(config)
    sensitive = Sensitive(config, card)
    images, statement = read_gen(gen, card)
    require_enough(config, len(images))
    account, made_here = stated(statement, sensitive, gen)
    digest = labelled_digest(images)

    def work(context: Context, run: Run | None) -> dict[str, float]:
        assert run is not None
        for doubt in doubts(images, statement, card):
            context.log.say(f"evaluate: warning: {doubt}")
        if not made_here:
            context.log.say("evaluate: this set states no training cost for this data: it gets no epsilon of its own")
        name = context.named(run.id[:12])
        purse = Spendings(sensitive, store, run.id, tuple(account.origins), name, digest)
        run.tag({TAG: ",".join(purse.own)})
        return evaluate(context, sensitive, images, account, made_here, purse)

    contexts = {"sensitive-train": card, "sensitive-test": card}
    stage = Stage(KINDS["evaluate"], work, (source,), contexts, sensitive.identity)
    return execute(stage, config, card, store, parent)


def run_baseline(config: Config, card: Card, store: Store) -> Result:
    """Run the utility protocol on the real images: a reference without privacy."""
    sensitive = Sensitive(config, card)
    stage = Stage(
        KINDS["baseline"],
        lambda context, _: baseline(context, sensitive),
        contexts={"sensitive-train": card, "sensitive-test": card},
        identity=sensitive.identity,
    )
    return execute(stage, config, card, store)


def run_audit(config: Config, card: Card, store: Store, black: bool) -> Result:
    """Attack the mechanisms of a method under one configuration; always does it anew, and reads no sensitive image."""
    account = fresh_account(config, card)
    stage = Stage(KINDS["audit"], lambda context, _: audit(context, account, black))
    return execute(stage, config.model_copy(update={"reuse": False}), card, store)


def run_main(config: Config, card: Card, store: Store, start: Start | None = None, parent: str | None = None) -> Result:
    """Run every stage as children of one run, which carries their metrics, the picture and the papers.

    With a `start` nothing is queried or pretrained.
    """
    require_weights(config)
    if config.public is not None:
        refuse_alike(config.public, card, data_root(config.data_root))
    begun = start not in (None, Start())
    require_pretraining(config, begun)
    require_memory(config, card)
    require_enough(config, config.generate.images)
    require_proportions(config, card)
    require_budget(config, card, begun)

    def work(context: Context, run: Run | None) -> dict[str, float]:
        own = run.id if run else None
        before = Before() if start else run_before(config, card, store, own)
        trained = run_train(config, card, store, start or before.start(), own)
        generated = run_generate(config, card, store, trained.run_id, own)
        if run is None:
            return {}
        gen = store.fetch(generated.run_id, str(GEN))
        judged = run_evaluate(config, card, store, gen, generated.run_id, own)
        stages = {**before.stages(), "train": trained, "generate": generated, "evaluate": judged}
        run.tag({f"dpib.run.{name}": result.run_id for name, result in stages.items()})
        for child, path in ((generated, str(SAMPLE)), *((judged, p) for p in _PAPERS)):
            target = context.artifacts / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.fetch(child.run_id, path).read_bytes())
        return {k: v for result in stages.values() for k, v in result.metrics.items()}

    inputs = start.inputs() if start else ()
    identity = Sensitive(config, card).identity
    stage = Stage(KINDS["main"], work, inputs, {"sensitive-train": card}, identity)
    return execute(stage, config, card, store, parent)


_PAPERS = (str(LEDGER), str(STATEMENT), "report.json")
