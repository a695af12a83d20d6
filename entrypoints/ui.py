"""Serve the tracked runs of this folder on the loopback interface, and say where to look."""

import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from dpib.errors import UserError
from entrypoints import cli


@click.command()
@click.option("--port", default=5000, help="Where to serve; the next one that is free, if it is taken.")
@cli.guarded
def main(port: int) -> None:
    """Open the runs of the experiment that was used last."""
    from dpib.tracking.view import address

    store = cli.open_store()
    experiment = store.newest_experiment()
    if cli.is_server(store):
        _open(address(store.uri, experiment))
        return
    port = free_from(port)
    # Loopback only, and without the job runner of MLflow's other half: it costs 2 GB and half a minute.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # A group of its own: the server starts others, and all of them end with this command.
    server = subprocess.Popen(command(store.uri, port), env=environment, start_new_session=True)
    with _survived_by_none(server), _ending(server):
        while not _answers(port):
            if server.poll() is not None:
                raise UserError(f"MLflow's server ended with status {server.returncode}; what it said stands above")
            time.sleep(0.2)
        _open(address(f"http://127.0.0.1:{port}", experiment))
        sys.exit(server.wait())


def command(uri: str, port: int) -> list[str]:
    """Return the command that serves a store on the loopback interface."""
    words = ["mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    # A page elsewhere that makes the browser call this server under another name is turned away.
    words += ["--allowed-hosts", f"127.0.0.1:{port},localhost:{port}", "--workers", "1"]
    return [sys.executable, "-m", *words]


@contextmanager
def _survived_by_none(server: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the server and what it started once this process is gone, killed by -9 as well."""
    # Nobody writes to the pipe: reading ends when its other end is closed, by whatever ends this process.
    words = ["sh", "-c", 'read -r _; kill -TERM "-$1"', "sh", str(server.pid)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True):
        yield


@contextmanager
def _ending(server: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the server and what it started when the block ends, by a signal as well."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, previous)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def free_from(port: int) -> int:
    """Return the first port of the loopback interface, from `port` on, that nobody listens on.

    Raises:
        UserError: when a hundred are taken.
    """
    for candidate in range(port, min(port + 100, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
        return candidate
    raise UserError(f"no free port from {port} on: give --port")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _open(url: str) -> None:
    click.echo(url)
    if sys.stdout.isatty() and os.environ.get("DISPLAY"):
        webbrowser.open(url)


if __name__ == "__main__":
    main()
