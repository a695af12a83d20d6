"""The end of a sweep: which trial won, what may be shown of it, and what it all cost."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpib import checkpoint
from dpib.atomic import replacing, write_text
from dpib.config import overlaid
from dpib.data.synthetic import read_gen
from dpib.errors import UserError
from dpib.pipeline import run_main
from dpib.privacy import statement
from dpib.privacy.events import Plan
from dpib.privacy.ledger import LEDGER, STATEMENT, Account, Ledger
from dpib.privacy.lineage import merged
from dpib.section import dump_yaml
from dpib.stages import course
from dpib.stages.build import FINAL
from dpib.stages.context import Context
from dpib.stages.evaluate import evaluate
from dpib.stages.generate import GEN, SAMPLE, statement_text, write
from dpib.sweeps import modes, trial
from dpib.sweeps.job import Job, Order, closed, tested
from dpib.sweeps.secret import Winner
from dpib.sweeps.space import Point, changes
from dpib.sweeps.study import Progress, Study, importances, save_plots
from dpib.tracking import Run

_MEANING = {
    "public": "Hyper-parameters were chosen on public images, which costs the sensitive ones nothing.",
    "compose": "Every training and every released score of every trial is charged; they are composed.",
    "random_stopping": "The number of trials was drawn and is secret, the trials were independent, and only the best "
    "became visible (Papernot and Steinke 2022). How long the search took tells about that number and is not covered.",
    "one_shot": "The candidates depend on synthetic images alone; one report-noisy-max on held-out images chose among "
    "them, and nothing but its index was released.",
    "unaccounted": "**NOT ACCOUNTED. The choice among trials was not charged: the epsilon of one trial is not the cost "
    "of this sweep, and nothing below it may be called differentially private with it.**",
}


def of_study(order: Order, job: Job, context: Context, run: Run, ended: tuple[Study, Progress]) -> dict[str, float]:
    """Choose the winner of a finished study and write everything about it; return the final metrics.

    Raises:
        UserError: when no trial finished.
    """
    study, progress = ended
    finished = {slot: found for slot, found in progress.done.items() if found.values}
    if not finished:
        reasons = [str(f.user_attrs.get("error", "its worker died too often")) for f in progress.failed.values()]
        raise UserError(f"no trial finished: {study.stopped or next(iter(reasons), 'all were given up')}")
    if job.spec.mode == "one_shot":
        slot = _select(job, context, {s: (f.params, f.user_attrs["run"]) for s, f in finished.items()})
    else:
        best = max if job.spec.direction == "maximize" else min
        slot = best(finished, key=lambda s: float(finished[s].values[0]))
    chosen = finished[slot]
    found = _fetched(job, context, chosen.user_attrs["run"])
    context.log.say(f"sweep: trial {slot} wins: {_spelt(job, chosen.params)}")
    run.tag({"dpib.best_trial": chosen.user_attrs["run"]})
    made = save_plots(study, context.artifacts / "figures")
    context.log.say(f"sweep: figures: {', '.join(made) or 'none, too few trials'}")
    write_text(context.artifacts / "importances.json", json.dumps(importances(study), indent=2))
    metrics = {
        "sweep/trials": float(len(progress.done)),
        "sweep/given_up": float(len(progress.done) - len(finished)),
        "sweep/failed": float(len(progress.failed)),
        "sweep/best_value": float(chosen.values[0]),
    }
    if study.stopped:
        context.log.say(f"sweep: stopped at the cap after {len(progress.done)} trials: {study.stopped}")
    return {**metrics, **_end(order, job, context, run, chosen.params, found)}


def of_secret(order: Order, job: Job, context: Context, run: Run, best: Winner | None) -> dict[str, float]:
    """Write everything about the one visible trial; return the final metrics."""
    if best is None:
        context.log.say("sweep: the draw said no trial; nothing is released")
        return _papers(order, job, context, run, {})
    context.log.say(f"sweep: the best trial: {_spelt(job, best.point)}")
    n = job.sensitive.account().scopes["val"]
    metrics = {"sweep/best_value": 100 * best.score / n}
    return {**metrics, **_end(order, job, context, run, best.point, lambda path: best.artifacts / path)}


def _select(job: Job, context: Context, trials: Mapping[int, tuple[Point, str]]) -> int:
    """Return the slot that report-noisy-max on validation images takes: one release, the index only."""
    account = job.book.account()
    name = f"{job.study}/select"
    (event,) = (e for e in account.events if e.id == f"val/{name}")
    assert event.epsilon is not None
    charge = modes.noisy_max(name, event.epsilon)
    ledger = Ledger(account, context.private / "select.json")
    vault = job.sensitive.vault("val", ledger, Plan((charge,)), context.private)
    candidates = {f"trial-{slot:03d}": slot for slot in sorted(trials)}
    for label, slot in candidates.items():
        point, run_id = trials[slot]
        inside = replace(context, config=job.at(point))
        vault.score(label, trial.load(inside, job.store.fetch(run_id, str(trial.CLASSIFIER))))
    return candidates[vault.select(name, list(candidates))]


def _fetched(job: Job, context: Context, run_id: str) -> Callable[[Path], Path]:
    def fetch(path: Path) -> Path:
        return job.store.fetch(run_id, str(path))

    return fetch


def _end(
    order: Order, job: Job, context: Context, run: Run, point: Point, fetch: Callable[[Path], Path]
) -> dict[str, float]:
    """Write the winner's files and measure it; then the papers."""
    config, spec = job.at(point), job.spec
    inside = replace(context, config=config)
    run.params(changes(point, spec.space), "best.")
    write_text(context.artifacts / "best.yaml", dump_yaml(changes(point, spec.space)))
    metrics: dict[str, float] = {}
    if spec.mode == "public":
        if spec.final:
            final = run_main(overlaid(order.config, changes(point, spec.space)), order.card, job.store, parent=run.id)
            for path in (LEDGER, SAMPLE, Path("report.json")):
                _copy(job.store.fetch(final.run_id, str(path)), context.artifacts / path)
            run.tag({"dpib.run.main": final.run_id})
            metrics = dict(final.metrics)
        return _papers(order, job, context, run, metrics)
    _copy(fetch(trial.CLASSIFIER), context.artifacts / trial.CLASSIFIER)
    if spec.kind == "classifier":
        if config.yardstick == "all":
            predict = trial.load(inside, context.artifacts / trial.CLASSIFIER)
            metrics["utility/accuracy_best"] = tested(job, context, predict)
        return _papers(order, job, context, run, metrics)
    images, _ = read_gen(fetch(GEN), job.card)
    account = _closed(order, job, context.artifacts / LEDGER)
    write(context.artifacts / GEN, images, statement_text(account, config.method))
    # Any trial's checkpoint knows what was spent until then; this one was chosen by all of it.
    checkpoint.save(context.artifacts / FINAL, checkpoint.load(fetch(FINAL)), ledger=account.text())
    _copy(fetch(SAMPLE), context.artifacts / SAMPLE)
    # The epoch is chosen on synthetic images here: the validation images have said what they were paid for.
    judged = replace(inside, config=overlaid(config, {"eval.mode": "syn"}))
    metrics = evaluate(course.inside(judged, "evaluate"), job.sensitive, images, account, made_here=True)
    return _papers(order, job, context, run, metrics)


def _papers(order: Order, job: Job, context: Context, run: Run, metrics: Mapping[str, float]) -> dict[str, float]:
    """Write the ledger and the statement; return `metrics` with what the sweep cost."""
    spec, path = job.spec, context.artifacts / LEDGER
    final = spec.mode == "public" and path.is_file()
    account = Account.parse(path.read_text()) if final else _closed(order, job, path)
    account = account.model_copy(update={"public": merged(account.public, job.book.account().public)})
    write_text(path, account.text())
    preface = f"# Sweep {spec.name}: mode {spec.mode}\n\n{_MEANING[spec.mode]}\n\n"
    write_text(context.artifacts / STATEMENT, preface + statement.render(account))
    kept = {k: v for k, v in metrics.items() if not k.startswith(("privacy/", "time/"))}
    total = {} if account.tainted or spec.mode == "unaccounted" else _total(account)
    run.text(dump_yaml(spec.model_dump(mode="json")), "sweep.yaml")
    return {**kept, **total}


def _closed(order: Order, job: Job, path: Path) -> Account:
    """Return the sweep's account with all that was spent meanwhile, and with the yardsticks of its evaluation."""
    account = job.book.account()
    if job.spec.mode != "public":
        account = job.purse().continued(account)
    if path.is_file():
        account = account.model_copy(update={"yardstick": Account.parse(path.read_text()).yardstick})
    return closed(account, order.spec.epsilon_total or order.config.epsilon)


def _total(account: Account) -> dict[str, float]:
    scopes, spent = account.spent_by_scope(), account.spent()
    names = {"train": "privacy/epsilon_train", "val": "privacy/epsilon_selection"}
    parts = {names[scope]: value for scope, value in scopes.items()}
    return {"privacy/epsilon": spent, "privacy/epsilon_sweep": spent, "privacy/delta": account.delta, **parts}


def _spelt(job: Job, point: Point) -> str:
    return ", ".join(f"{key}={_short(value)}" for key, value in changes(point, job.spec.space).items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        temporary.write_bytes(source.read_bytes())
