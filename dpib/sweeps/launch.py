"""Launch a sweep: what its ledger starts from, its study and workers, its winner and its papers."""

import hashlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from dpib import lifeline
from dpib.atomic import write_text
from dpib.config import Config, from_text, overlaid
from dpib.config.kinds import KINDS
from dpib.config.schema import flatten
from dpib.data.catalog import Card, data_root
from dpib.data.synthetic import read_gen
from dpib.errors import UserError
from dpib.images import set_digest
from dpib.overlap import checked, refuse_alike
from dpib.privacy.ledger import Account, Public
from dpib.public import read_public
from dpib.runner import Result, Stage, execute
from dpib.section import dump_yaml
from dpib.sensitive import Sensitive
from dpib.spendings import TAG, Spendings, labelled_digest
from dpib.stages.context import Context
from dpib.stages.generate import GEN
from dpib.stated import stated
from dpib.sweeps import modes, secret, winner
from dpib.sweeps.book import Book
from dpib.sweeps.job import Job, Order, equal_plans
from dpib.sweeps.space import changes, extremes, independent
from dpib.sweeps.study import Progress, Study, shown
from dpib.sweeps.worker import startup, sweep_worker
from dpib.tracking import Run, Store

ROOT = Path(__file__).resolve().parents[2]
_BOUNDLESS = 1e9


def run_sweep(order: Order, store: Store) -> Result:
    """Run a sweep to its end, or continue one that was interrupted.

    Raises:
        UserError: when its parts do not go together, or its budget is spent.
    """
    spec, config, card = order.spec, order.config, order.card
    modes.check(spec, card.name)
    if spec.mode == "random_stopping" and order.workers != 1:
        raise UserError("sweep.mode=random_stopping keeps its trials secret in one process: use workers=1")
    if not config.data.holdout and spec.mode != "public":
        raise UserError("a sweep scores on held-out images: set data.holdout")
    for point in extremes(spec.space):
        overlaid(config, changes(point, spec.space))  # what is no configuration fails now, not trial by trial
    sensitive = Sensitive(config, card)

    def work(context: Context, run: Run | None) -> dict[str, float]:
        assert run is not None
        run.params(flatten(spec.model_dump(mode="json")), "sweep.")
        run.tag({"dpib.sweep_mode": spec.mode, "dpib.sweep_kind": spec.kind})
        return _sweep(order, context, run, store, sensitive)

    private = spec.mode != "unaccounted"
    told = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
    inputs = (order.generate_run or "none", told)
    label = f"sweep-{spec.name}-{card.name}-eps{config.epsilon:g}-s{config.seed}"
    stage = Stage(
        KINDS["sweep"],
        work,
        inputs,
        {"sensitive-train": card},
        sensitive.identity,
        label=label,
        private=private,
        timed=spec.mode != "random_stopping",
    )
    return execute(stage, config, card, store)


def _sweep(order: Order, context: Context, run: Run, store: Store, sensitive: Sensitive) -> dict[str, float]:
    spec, study_name = order.spec, context.named(f"{order.spec.name}-{run.id[:12]}")
    gen = store.fetch(order.generate_run, str(GEN)) if order.generate_run is not None else None
    start = starting_account(order, gen, sensitive, store, run.id)
    hidden = spec.mode == "random_stopping"
    url = f"sqlite:///{(context.private / 'book.db').resolve()}" if hidden else order.url
    book = Book(url, study_name)
    begun_before = context.private / "book-begun.txt"
    if begun_before.is_file():
        book.require()
    book.begin(_capped(order, start))
    write_text(begun_before, study_name)
    # A sweep that is continued calibrates from the ledger that it began with, whatever happened since.
    begun = book.account()
    before = [event for event in begun.events if f"/{study_name}/" not in event.id]
    start = start.model_copy(update={"events": before, "origins": begun.origins, "disjoint": begun.disjoint})
    if order.config.unsafe_noise_seed is not None:
        book.taint()
    job = _job(order, run.id, book, study_name, start, sensitive, gen, store)
    if spec.mode != "public":
        run.tag({TAG: ",".join(job.purse().own)})
    if spec.mode == "one_shot":
        job.spend([modes.selection_charge(start, f"{study_name}/select")])
    try:
        if hidden:
            return winner.of_secret(order, job, context, run, secret.search(job, context))
        study = _study(job, url)
        more = f"mlflow run . --env-manager local -e sweep_worker -P study={study.name} -P worker=1"
        context.log.say(f"sweep: study {study.name} in {shown(url)}; workers may join: {more}")
        progress = _run_workers(study, job, order.workers)
        return winner.of_study(order, job, context, run, (study, progress))
    finally:
        book.close()


def _job(
    order: Order,
    run_id: str,
    book: Book,
    study_name: str,
    start: Account,
    sensitive: Sensitive,
    gen: Path | None,
    store: Store,
) -> Job:
    """Return what the trials share, and what each of them is charged."""
    spec, config, card, real = order.spec, order.config, order.card, sensitive
    if spec.mode == "public":
        config, card = _on_proxy(order, sensitive, book)
        real = Sensitive(config, card)
    elif spec.kind == "synthesizer":
        sensitive.remember(start.origins[-1])
    judged = None if gen is None else labelled_digest(read_gen(gen, card)[0])
    job = Job(spec, config, card, store, book, study_name, run_id, real, order.generate_run, judged)
    if spec.mode in ("compose", "unaccounted"):
        budget = start if spec.mode == "compose" else sensitive.account()
        job = replace(job, charge=modes.score_charge(spec, budget, spec.trials, "score"))
    if spec.mode == "compose" and spec.kind == "synthesizer" and spec.sampler in modes.LEARNING:
        job = replace(job, training=equal_plans(job))
        if job.training is None:
            raise UserError(modes.UNEQUAL)
    return job


def starting_account(order: Order, gen: Path | None, sensitive: Sensitive, store: Store, run: str) -> Account:
    """Return the ledger that the sweep continues, its cap in it.

    A classifier sweep inherits what made the images in `gen`, and everything that is known to have been spent on
    held-out images to judge them.
    """
    if gen is None:
        account = sensitive.account().model_copy(update={"origins": [secrets.token_hex(8)]})
    else:
        images, statement = read_gen(gen, order.card)
        account, _ = stated(statement, sensitive, gen)
        digest = labelled_digest(images)
        account = Spendings(sensitive, store, run, tuple(account.origins), "", digest).continued(account)
    cap, spent = order.spec.epsilon_total or order.config.epsilon, account.spent_by_scope().get("train", 0.0)
    if spent > cap and order.spec.mode != "unaccounted":
        raise UserError(f"the images have cost epsilon {spent:.4g} already: raise sweep.epsilon_total={cap:g}")
    return account.model_copy(update={"epsilon": cap})


def _capped(order: Order, start: Account) -> Account:
    """Return the account for the book: without a cap where the mode has none."""
    spec = order.spec
    free = spec.mode == "unaccounted" or (spec.mode == "random_stopping" and spec.epsilon_total is None)
    return start.model_copy(update={"epsilon": _BOUNDLESS}) if free else start


def _on_proxy(order: Order, sensitive: Sensitive, book: Book) -> tuple[Config, Card]:
    """Return the configuration and the card of the public proxy.

    Raises:
        UserError: when it has another shape, or is the sensitive data set or shares images with it.
    """
    assert order.spec.proxy is not None
    proxy, root = order.spec.proxy, order.config.data_root
    refuse_alike(proxy, order.card, data_root(root))
    source = Public(name=proxy, digest=set_digest(read_public(proxy, order.card.shape, root)))
    book.learn([checked(source, sensitive, order.card, root, order.config.public_overlap is not None)])
    other = {"dataset": proxy, "delta": "none", "data.holdout": "none"}
    config, card = from_text(dump_yaml(order.config.nested()), other, "the configuration of the sweep")
    if card.shape != order.card.shape:
        raise UserError(f"sweep.proxy={card.name} has shape {list(card.shape)}, not {list(order.card.shape)}")
    return config, card


def _study(job: Job, url: str) -> Study:
    spec = job.spec
    if spec.sampler in ("random", "qmc", "grid"):
        points = independent(spec.space, spec.sampler, spec.trials, spec.seed)
    else:
        first = independent(spec.space, "random", startup(spec), spec.seed)
        points = [*first, *({} for _ in range(spec.trials - len(first)))]
    return Study.create(url, job.study, job.memo(), points, spec.direction, spec.heartbeat)


def _run_workers(study: Study, job: Job, workers: int) -> Progress:
    """Work here, beside as many further processes of this machine as asked for."""
    with local_workers(study, workers - 1):
        return sweep_worker(study, job, 0)


@contextmanager
def local_workers(study: Study, count: int) -> Iterator[None]:
    """Start `count` workers beside this process and share the cores among all; end them when the block does.

    The block ends when no slot is left: a worker that is still there has nothing to do.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_RUN")}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment |= {"DPIB_STORAGE": study.url, lifeline.LAUNCHER: str(os.getpid()), "PYTHONPATH": path}
    threads = torch.get_num_threads()
    if count > 0:
        share = max(1, (os.cpu_count() or 1) // (count + 1))
        environment["OMP_NUM_THREADS"] = str(share)
        torch.set_num_threads(share)
    command = [sys.executable, "-m", "entrypoints.sweep_worker", "--study", study.name, "--worker"]
    processes = [subprocess.Popen([*command, str(i + 1)], env=environment) for i in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        torch.set_num_threads(threads)
