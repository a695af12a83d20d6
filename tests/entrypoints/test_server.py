"""The team server as docs/server.md starts it: logins, allowed hosts, artifacts through the server."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode

import mlflow
import pytest

from tests.ports import free_port

REQUIRED = (
    "DPIB_DATABASE", "DPIB_AUTH_DATABASE", "DPIB_ARTIFACTS", "DPIB_ALLOWED_HOSTS", "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
)  # fmt: skip


def start(root, tmp_path, database, port, **changed):
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "DPIB"))},
        "PYTHON": sys.executable,
        "DPIB_DATABASE": database,
        "DPIB_AUTH_DATABASE": f"sqlite:///{tmp_path / 'auth.db'}",
        "DPIB_ARTIFACTS": str(tmp_path / "artifacts"),
        "DPIB_ALLOWED_HOSTS": f"127.0.0.1:{port}",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "correct horse battery",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a secret of the test",
        "DPIB_PORT": str(port),
        "DPIB_WORKERS": "1",
        **changed,
    }
    return subprocess.Popen(
        [root / "scripts" / "server.sh"], env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("missing", REQUIRED)
def test_the_server_does_not_start_without_its_settings(root, tmp_path, missing):
    process = start(root, tmp_path, "sqlite:///none.db", 1, **{missing: ""})
    assert process.wait() == 1
    assert f"set {missing} first" in process.stderr.read()


def test_the_server_does_not_start_with_a_known_password(root, tmp_path):
    process = start(root, tmp_path, "sqlite:///none.db", 1, MLFLOW_AUTH_ADMIN_PASSWORD="password1234")
    assert process.wait() == 1


def status(port, user=None, host=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id=0")
    if user:
        request.add_header("Authorization", "Basic " + b64encode(user.encode()).decode())
    if host:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@pytest.mark.slow
def test_clients_need_the_address_and_a_login_only(root, tmp_path, postgres, monkeypatch):
    port = free_port()
    admin = "admin:correct horse battery"
    process = start(root, tmp_path, postgres, port)
    try:
        while status(port) is None and process.poll() is None:
            time.sleep(0.5)
        assert process.poll() is None, process.stderr.read()
        assert status(port) == 401
        assert status(port, "admin:password1234") == 401
        assert status(port, admin) == 200
        assert status(port, admin, host="evil.example.org") == 403
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse battery")
        client = mlflow.MlflowClient(f"http://127.0.0.1:{port}")
        run = client.create_run(client.create_experiment("e")).info
        client.log_text(run.run_id, "hello", "a.txt")
        assert run.artifact_uri.startswith("mlflow-artifacts:")
        assert [path.read_text() for path in (tmp_path / "artifacts").rglob("a.txt")] == ["hello"]
    finally:
        os.killpg(process.pid, 15)
        process.wait()
