"""Run one stage as one tracked run: reuse it if it is there, resume it if it was cut off, else do it."""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

from dpib.config import Config
from dpib.config.fingerprint import fingerprint
from dpib.config.kinds import Kind
from dpib.data.catalog import Card, home
from dpib.distributed import World
from dpib.errors import UserError
from dpib.follower import announce, follow
from dpib.journal import Identity, Journal
from dpib.section import dump_yaml
from dpib.stage_log import StageLog
from dpib.stages.context import Context
from dpib.tracking import Run, Store
from dpib.workspace import Workspace

SNAPSHOT = "checkpoints/snapshot.safetensors"
_IMAGES = "dpib.images"


@dataclass(frozen=True)
class Result:
    """A finished stage: its run, and its final metrics."""

    run_id: str
    metrics: dict[str, float]
    reused: bool = False


@dataclass(frozen=True)
class Stage:
    """What `execute` must know of one stage, beside its kind.

    `work` writes artifacts and returns final metrics. `inputs` are what it consumes (run ids, digests). What all
    processes do together must fetch its inputs itself, because only when it is announced are the stages before it
    finished. `identity` says which sensitive images it sees. `label` names the run where the kind does not tell it from
    others, `part` is the part that a stage of that kind fits. A `trusting` stage takes a finished run of its inputs for
    its own whatever images that saw: one study has made both. What is not `timed` leaves no trace of how long it took.
    """

    kind: Kind
    work: Callable[[Context, Run | None], dict[str, float]]
    inputs: tuple[str, ...] = ()
    contexts: Mapping[str, Card] = field(default_factory=dict)
    identity: Callable[[], Identity] | None = None
    label: str | None = None
    part: str | None = None
    private: bool = True
    trusting: bool = False
    timed: bool = True

    @property
    def name(self) -> str:
        """The name of its kind."""
        return self.kind.name


def execute(stage: Stage, config: Config, card: Card, store: Store, parent: str | None = None) -> Result:
    """Return the finished `stage`: an earlier run of the same fingerprint, a resumed one, or a new one.

    Under torchrun every process calls this. Rank 0 alone tracks; the others take part in a `parallel`
    stage and leave any other to it, getting a result without metrics.

    Raises:
        UserError: what the stage raises, after its run was closed as FAILED.
    """
    world = World.join(_device(config))
    if world.leads:
        return _lead(stage, config, card, store, parent, world)
    if not stage.kind.parallel:
        return Result("", {})
    return Result(follow(lambda context: stage.work(context, None), config, card, world), {})


def _lead(stage: Stage, config: Config, card: Card, store: Store, parent: str | None, world: World) -> Result:
    key = fingerprint(stage.name, config, card, stage.inputs, stage.part)
    experiment = store.experiment_of(parent) if parent else store.experiment(card.name, card.title)
    identity = stage.identity() if stage.identity is not None else None
    found = _reusable(stage, key, identity, store, experiment) if config.reuse else None
    if found is not None:
        if stage.kind.parallel:
            announce(world, found, None)
        name = stage.label or run_name(stage.kind, config, card, parent)
        if config.note and parent is None and not store.annotate(found, name, config.note):
            print(f"{stage.name}: run {found} keeps the note that it has; reuse=false makes another", file=sys.stderr)
        return Result(found, store.metrics(found), reused=True)
    with Workspace(home() / "work", f"{stage.name}-{key[:20]}") as workspace:
        run = _open(stage, config, card, store, workspace, (experiment, key, parent), identity)
        if identity is not None:
            run.tag({_IMAGES: identity.told or "own"})
        if not stage.timed:
            store.hide_times(run)
        snapshot = (
            workspace.private / "snapshot.safetensors"
            if stage.kind.private_snapshot
            else workspace.artifacts / SNAPSHOT
        )
        with closing(run, workspace.pause, stage.kind.discreet):
            if stage.kind.parallel:
                announce(world, run.id, snapshot)
            log = StageLog(run, workspace, snapshot)
            context = Context(config, card, world.device, workspace.artifacts, workspace.private, log, world)
            with nullcontext() if stage.kind.parallel else world.alone():
                metrics = stage.work(context, run)
            if stage.timed:
                metrics[f"time/{stage.name}"] = workspace.seconds()
            if log.tainted():
                run.tag({"dpib.private": "false"})
            if identity is not None:
                Journal(home()).saw(run.id, identity.digest)
            run.artifacts(workspace.artifacts)
            run.final(metrics)
        workspace.remove()
    return Result(run.id, metrics)


def _reusable(stage: Stage, key: str, identity: Identity | None, store: Store, experiment: str) -> str | None:
    """Return a finished run of this fingerprint that is known to have seen the same sensitive images, if any."""
    for found in store.find(None if stage.kind.any_dataset else experiment, stage.name, key):
        if identity is not None and not stage.trusting and not _saw(found, identity, store):
            print(
                f"{stage.name}: run {found} did the same with other images under this name, or on another machine "
                "whose images nobody here knows: not reused",
                file=sys.stderr,
            )
            continue
        if not store.intact(found):
            print(f"{stage.name}: run {found} has lost files that it made; not reused", file=sys.stderr)
            continue
        print(f"{stage.name}: reusing run {found} (reuse=false forces a new one)", file=sys.stderr)
        return found
    return None


def _saw(run: str, identity: Identity, store: Store) -> bool:
    """Return whether a run saw these images: this machine knows it, or their publisher has made them known."""
    told = store.tags(run).get(_IMAGES)
    return Journal(home()).seen_by(run) == {identity.digest} or (told is not None and told == identity.told)


def _open(
    stage: Stage,
    config: Config,
    card: Card,
    store: Store,
    workspace: Workspace,
    where: tuple[str, str, str | None],
    identity: Identity | None,
) -> Run:
    """Return the run to work in: the interrupted one where there is one to resume, else a new one.

    What was begun on other images, or in a folder that this one is a copy of, is begun anew: noise belongs to one
    charge in one place.
    """
    experiment, key, parent = where
    notes, images = workspace.notes, identity.digest if identity is not None else None
    same = {"images": images, "inode": workspace.inode}.items() <= notes.items()
    here = notes.get("uri") == store.uri
    run = store.resume(notes["run_id"]) if config.resume and same and here else None
    if run is not None:
        print(f"{stage.name}: resuming run {run.id} (resume=false starts afresh)", file=sys.stderr)
        return run
    if notes and not (config.resume and same):
        if here:
            store.close(notes["run_id"])
        if config.resume:
            print(f"{stage.name}: begun on other images, or copied from elsewhere: it is begun anew", file=sys.stderr)
        workspace.clear()
    name = stage.label or run_name(stage.kind, config, card, parent)
    run = store.begin(experiment, name, _tags(stage, config, card, key), parent)
    workspace.note(run_id=run.id, uri=store.uri, images=images, inode=workspace.inode)
    run.params(config.flat())
    for context, used in stage.contexts.items():
        run.dataset(used.name, used.homepage, context)
    run.text(dump_yaml(config.nested()), "config.yaml")
    return run


def run_name(kind: Kind, config: Config, card: Card, parent: str | None) -> str:
    """Return `<method>-<dataset>-eps<e>-s<seed>[-<note>]`, or the stage's name for a child run."""
    if parent is not None:
        return kind.name
    if not kind.method:
        name = f"{kind.name}-{card.name}-s{config.seed}"
    else:
        name = f"{config.method}-{card.name}-eps{config.epsilon:g}-s{config.seed}"
    return f"{name}-{config.note}" if config.note else name


def _tags(stage: Stage, config: Config, card: Card, key: str) -> dict[str, str]:
    tags = {
        "dpib.stage": stage.name,
        "dpib.dataset": card.name,
        "dpib.method": config.method if stage.kind.method else stage.name,
        "dpib.fingerprint": key,
        "dpib.inputs": ",".join(stage.inputs) or "none",
        "dpib.private": str(stage.kind.private and stage.private and config.unsafe_noise_seed is None).lower(),
    }
    if config.note:
        tags["mlflow.note.content"] = config.note
    return tags


@contextmanager
def closing(run: Run, pause: Callable[[], None], discreet: bool = False) -> Iterator[None]:
    """End the run as what happened inside: FINISHED, FAILED with its reason, or KILLED (after a `pause`).

    Where it is `discreet` the reason is told on the machine alone.
    """
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # asked again, the end is under way
        pause()
        run.finish("KILLED")
        raise
    except BaseException as error:
        pause()
        said = "" if discreet else str(error)
        reason = said.splitlines()[0] if said else type(error).__name__
        run.tag({"dpib.error": reason[:500]})
        run.finish("FAILED")
        raise
    else:
        run.finish()
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(*_: object) -> None:
    """Treat a polite request to end like Ctrl-C: the stage can be resumed."""
    raise KeyboardInterrupt


def _device(config: Config) -> torch.device | None:
    """Return the CPU where it is asked for; none means this process's GPU, or the CPU where there is no GPU.

    Raises:
        UserError: when a GPU is asked for and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no GPU here: use device=auto")
    return torch.device("cpu") if config.device == "cpu" else None
