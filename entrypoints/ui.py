"""Serve the tracked runs of this folder on the loopback interface, and say where to look."""

import os
import subprocess
import sys
import webbrowser

import click

from dpib.errors import UserError
from dpib.tracking.view import address
from entrypoints import cli


@click.command()
@click.option("--port", default=5000, help="Where to serve.")
def main(port: int) -> None:
    """Open the runs of the experiment that was used last."""
    store = cli.open_store()
    try:
        experiment = store.newest_experiment()
    except UserError as error:
        raise click.ClickException(str(error)) from None
    if cli.is_server(store):
        _open(address(store.uri, experiment))
        return
    _open(address(f"http://127.0.0.1:{port}", experiment))
    # Loopback only, and without the job runner of MLflow's other half: it costs 2 GB and half a minute.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = ["mlflow", "server", "--backend-store-uri", store.uri, "--host", "127.0.0.1"]
    # A page elsewhere that makes the browser call this server under another name is turned away.
    server += ["--allowed-hosts", f"127.0.0.1:{port},localhost:{port}"]
    sys.exit(subprocess.call([sys.executable, "-m", *server, "--port", str(port), "--workers", "1"], env=environment))


def _open(url: str) -> None:
    click.echo(url)
    if sys.stdout.isatty() and os.environ.get("DISPLAY"):
        webbrowser.open(url)


if __name__ == "__main__":
    main()
