"""The command that serves the runs: on a port of its own, and no longer than it is wanted."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from dpib.tracking import Store
from entrypoints import ui
from tests.ports import free_port

# The real command; only the server is a lighter one than MLflow's, with a child of its own as MLflow's has.
SCRIPT = """
import sys
from entrypoints import ui
def command(uri, port):
    inner = f"{sys.executable} -m http.server --bind 127.0.0.1 {port}"
    return ["sh", "-c", f"{inner} & wait"]
ui.command = command
ui.main()
"""


def test_a_port_that_is_taken_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < ui.free_from(port) < port + 100


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_server_ends_with_the_command(root, tracking_uri, how):
    store = Store(tracking_uri)
    store.begin(store.experiment("toy", "Toy"), "r", {"dpib.stage": "main"}, None).finish()
    command = [sys.executable, "-c", SCRIPT, f"--port={free_port()}"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    address = process.stdout.readline()
    port = int(address.partition("127.0.0.1:")[2].partition("/")[0])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) == 0
    process.send_signal(how)
    assert process.wait() == (-how if how == signal.SIGKILL else 128 + how)
    process.stdout.read()  # until the last process that could write to it has ended
    process.stdout.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_command_is_mlflows_server_on_the_loopback_interface():
    words = ui.command("sqlite:///x.db", 5001)
    assert words[1:4] == ["-m", "mlflow", "server"]
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--allowed-hosts") + 1] == "127.0.0.1:5001,localhost:5001"
