"""What the entry points share: dotted keys from argv, one-line errors, and what is printed at the end.

Here and in every entry point what takes seconds to import is imported where it is needed, so that help and mistyped
options are answered at once.
"""

import functools
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dpib.data.catalog import home
from dpib.errors import UserError, explain
from dpib.paths import written_path
from entrypoints.launch import leads

if TYPE_CHECKING:
    from dpib.chain import Start
    from dpib.runner import Result
    from dpib.tracking import Store

Command = TypeVar("Command", bound=Callable[..., None])


def guarded(command: Command) -> Callable[..., None]:
    """Make a command report every error in one line, and an interruption without a traceback.

    The traceback of what nobody foresaw goes to a file. Whoever sits at a terminal is told at once that it starts.
    """

    @functools.wraps(command)
    def careful(*args: Any, **kwargs: Any) -> None:
        if leads() and sys.stderr.isatty():
            print(f"{Path(sys.argv[0]).stem}: starting", file=sys.stderr)
        try:
            command(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except UserError as error:
            raise click.ClickException(_line(error)) from None
        except KeyboardInterrupt:
            print("stopped; the same command resumes it", file=sys.stderr)
            sys.exit(130)
        except Exception as error:  # noqa: BLE001 - the last stop of whatever went wrong
            reason = explain(error, (home(), Path(tempfile.gettempdir()), Path.cwd()))
            raise click.ClickException(reason or f"{_line(error)}: {_kept(error)}") from None

    return careful


def _line(error: Exception) -> str:
    """Return what an exception says, in one line; its kind as well where it is not meant for people."""
    said = " ".join(str(error).split())
    return said if isinstance(error, UserError) else f"{type(error).__name__}: {said[:300]}"


def _kept(error: Exception) -> str:
    """Write a traceback to a file that only its owner can read, and say where."""
    folder = home() / "logs"
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
            file.write(f"{sys.argv}\n{''.join(traceback.format_exception(error))}")
    except OSError as fault:
        return f"nobody foresaw this, and its traceback could not be written ({fault})"
    return f"nobody foresaw this; the traceback is in {path}"


def entry(command: Command) -> click.Command:
    """Make a click command that accepts every configuration key; errors are those of `guarded`."""
    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    taking = click.argument("keys", nargs=-1, type=click.UNPROCESSED, metavar="[--KEY VALUE]...")(guarded(command))
    return click.command(context_settings=settings)(taking)


def overrides(arguments: Sequence[str]) -> dict[str, str]:
    """Return `--train.lr 0.003` or `--train.lr=0.003` as ``{"train.lr": "0.003"}``.

    Raises:
        UserError: for anything else, and for a key that is given twice.
    """
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UserError(f"cannot read {word!r}: write --key value, or -P key=value with mlflow run")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest:
                raise UserError(f"--{key} has no value")
            value = rest.pop(0)
        if key in found:
            raise UserError(f"{key} is given twice")
        found[key] = value
    return found


def given(value: str) -> str | None:
    """Return an optional parameter of the MLproject file, or None for its default `none`."""
    return None if value == "none" else value


def start(pretrain_run: str, checkpoint: str, store: "Store") -> "Start | None":
    """Return what a training is to start from, or None.

    Raises:
        UserError: when both are given, or what is given does not exist.
    """
    from dpib.chain import Start
    from dpib.upstream import find_stage

    run, file = given(pretrain_run), given(checkpoint)
    if run is not None and file is not None:
        raise UserError("give -P pretrain_run=<run id> or -P checkpoint=<file>, not both")
    if run is not None:
        return Start(run=find_stage(run, "pretrain", store))
    return Start(file=written_path(file)) if file is not None else None


def open_store() -> "Store":
    """Return the tracking store, after closing runs that a killed process left behind (rank 0 does that)."""
    from dpib.tracking import Store

    store = Store()
    if not leads():
        return store
    store.sign()
    for run_id in store.reap():
        print(f"closed run {run_id}: its process is gone", file=sys.stderr)
    return store


def show(name: str, result: "Result") -> None:
    """Print a stage's run id and final metrics, once."""
    if not leads():
        return
    print(f"\n{name} run {result.run_id}{' (reused)' if result.reused else ''}")
    for key, value in sorted(result.metrics.items()):
        print(f"  {key:32} {value:.6g}")


def is_server(store: "Store") -> bool:
    """Return whether runs go to a tracking server rather than a local file."""
    return store.uri.startswith(("http://", "https://"))
