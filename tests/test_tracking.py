"""The tracking store as several processes of one run meet it: new, half made, locked, away."""

import http.server
import shutil
import sqlite3
import subprocess
import sys
import threading

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from dpib.errors import UserError
from dpib.tracking import Store, patience
from dpib.tracking.run import safe
from tests.ports import free_port


def test_several_processes_may_open_a_new_store_at_once(root, tmp_path):
    uri = f"sqlite:///{tmp_path / 'new' / 'folder' / 'new.db'}"
    script = f"from dpib.tracking import Store; s = Store({uri!r}); s.experiment('digits_28', 'd'); s.suites()"
    command = [sys.executable, "-c", script]
    processes = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    complaints = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0], complaints


def test_a_database_that_a_killed_process_left_half_made_is_named_with_its_cure(tmp_path):
    whole, half = tmp_path / "whole.db", tmp_path / "half.db"
    Store(f"sqlite:///{whole}")
    shutil.copy(whole, half)
    with sqlite3.connect(half) as database:  # as after a kill amid MLflow's migrations
        database.execute("DELETE FROM alembic_version")
        database.execute("DROP TABLE registered_model_aliases")
    database.close()
    with pytest.raises(UserError, match=r"does not open .*OperationalError.*: .*move that file away"):
        Store(f"sqlite:///{half}")


def test_a_file_that_is_no_database_is_named_with_its_cure(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("no database at all" * 100)
    with pytest.raises(UserError, match=r"does not open .*not a database.*check MLFLOW_TRACKING_URI"):
        Store(f"sqlite:///{path}")


@pytest.fixture
def store(tracking_uri):
    return Store(tracking_uri)


@pytest.fixture
def run(store):
    run = store.begin(store.experiment("toy", "Toy"), "r", {"dpib.stage": "train"}, None)
    yield run
    run.finish()


class Failing:
    """A method of MLflow's client that fails a few times before it works."""

    def __init__(self, method, *errors):
        self.method, self.errors, self.calls = method, list(errors), 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.method(*args, **kwargs)


LOCKED = MlflowException("(sqlite3.OperationalError) database is locked")
AWAY = MlflowException("API request to http://h failed with exception Max retries exceeded with url: /api")


@pytest.mark.parametrize("error", [LOCKED, AWAY, OSError("502 Server Error: Bad Gateway for url: http://h")])
def test_a_store_that_is_locked_or_away_for_a_while_is_waited_for(store, run, monkeypatch, error):
    monkeypatch.setattr(patience.time, "sleep", lambda _: None)
    method = Failing(mlflow.MlflowClient.set_tag, error, error, error)
    monkeypatch.setattr(mlflow.MlflowClient, "set_tag", lambda *a: method(*a))
    assert store.annotate(run.id, "name", "first")
    assert method.calls == 5
    assert store.tags(run.id)["mlflow.note.content"] == "first"


def test_a_store_that_stays_locked_is_said_to_be_and_never_to_be_deleted(monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(UserError, match=r"store sqlite:///x.db was locked by another program") as caught:
        patience.patiently(Failing(None, *[LOCKED] * 9), "sqlite:///x.db")
    assert "delete" not in str(caught.value)


def test_a_fault_that_does_not_pass_is_raised_at_once():
    method = Failing(None, MlflowException("no such run"))
    with pytest.raises(MlflowException, match="no such run"):
        patience.patiently(method, "sqlite:///x.db")
    full = MlflowException("(sqlite3.OperationalError) database or disk is full")
    with pytest.raises(UserError, match=r"the disk of sqlite:////tmp/x\.db is full: free some space"):
        patience.patiently(Failing(None, full), "sqlite:////tmp/x.db")


def test_a_locked_database_is_opened_when_it_is_free_again(tracking_uri, tmp_path):
    other = sqlite3.connect(tmp_path / "mlflow.db", check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    opened = []
    opener = threading.Thread(target=lambda: opened.append(Store(tracking_uri)))
    opener.start()
    opener.join(0.5)
    assert opened == []
    other.rollback()
    other.close()
    opener.join()
    assert len(opened) == 1


def test_what_was_sent_before_the_server_went_away_is_not_sent_again(store, run, monkeypatch):
    for step in range(3):
        run.image("grid", np.zeros((4, 4, 3), np.uint8), step)
    original, sent = mlflow.MlflowClient.log_image, []

    def fails_once(client, run_id, picture, key, step):
        if step == 1 and sent == [0]:
            sent.append("away")
            raise MlflowException("no such run")
        sent.append(step)
        original(client, run_id, picture, key=key, step=step)

    monkeypatch.setattr(mlflow.MlflowClient, "log_image", fails_once)
    with pytest.raises(MlflowException):
        run._send()
    run._send()
    assert sent == [0, "away", 1, 2]


@pytest.fixture
def web_server():
    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>a page</html>")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_address_without_a_tracking_server_is_one_line_at_once(web_server, monkeypatch):
    # Not one pause: the answer comes after one request.
    monkeypatch.setattr(patience.time, "sleep", lambda _: pytest.fail("it waits"))
    for uri in (web_server, f"http://127.0.0.1:{free_port()}", "http://nowhere.invalid:5000"):
        with pytest.raises(UserError, match=f"no MLflow server answers at {uri} .*: check MLFLOW_TRACKING_URI"):
            Store(uri)
    for uri in (f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/x", "foo://x"):
        with pytest.raises(UserError, match="check MLFLOW_TRACKING_URI") as caught:
            Store(uri)
        assert "secret" not in str(caught.value)


def test_the_run_of_a_launcher_is_closed_when_its_process_is_gone_and_put_away_after(store, run, monkeypatch):
    client = mlflow.MlflowClient(store.uri)
    launcher = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", launcher)
    assert store.resume(run.id) is not None
    assert client.get_run(launcher).info.run_name == f"launcher of {run.id}"
    assert store.reap() == []  # its process, this one here, is at work
    client.set_tag(launcher, "dpib.process", "1:0")
    assert store.reap() == [launcher]
    assert client.get_run(launcher).info.status == "KILLED"
    assert store.reap() == []
    assert client.get_run(launcher).info.lifecycle_stage == "deleted"
    assert store.follow(launcher) == run.id


def test_the_run_of_a_launcher_elsewhere_is_closed_after_the_real_one_only(store, run, monkeypatch):
    client = mlflow.MlflowClient(store.uri)
    launcher = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", launcher)
    store.resume(run.id)
    for key, value in {"dpib.host": "elsewhere", "dpib.heartbeat": "0"}.items():
        client.set_tag(launcher, key, value)
    assert store.reap() == []
    client.set_terminated(run.id)
    assert store.reap() == [launcher]


def test_a_deleted_run_is_refused(store, run):
    mlflow.MlflowClient(store.uri).delete_run(run.id)
    with pytest.raises(UserError, match=f"run {run.id} was deleted: .*mlflow runs restore"):
        store.follow(run.id)
    mlflow.MlflowClient(store.uri).restore_run(run.id)
    assert store.follow(run.id) == run.id


def test_a_deleted_experiment_comes_back_when_it_is_used_again(store, capsys):
    first = store.experiment("toy", "Toy")
    mlflow.MlflowClient(store.uri).delete_experiment(first)
    assert store.experiment("toy", "Toy") == first
    assert "experiment dpib-toy had been deleted: it is restored" in capsys.readouterr().err
    store.begin(first, "r", {"dpib.stage": "train"}, None).finish()


def test_names_that_mlflow_refuses_are_made_safe(store, run):
    run.final({"utility/wide (a, b)[1]/accuracy": 1.0})
    run.params({"space.wide, [1].x": 1})
    assert store.metrics(run.id) == {"utility/wide _a_ b__1_/accuracy": 1.0}
    assert safe("utility/resnet/accuracy") == "utility/resnet/accuracy"


def test_a_timeless_run_ends_when_it_began_whoever_ends_it(store, root):
    run = store.begin(store.experiment("toy", "Toy"), "r", {"dpib.stage": "sweep"}, None)
    store.hide_times(run)
    run.curve("loss", 1.0, 0)
    run.final({"score": 2.0})
    run.finish()
    client = mlflow.MlflowClient()
    began = client.get_run(run.id).info.start_time
    assert client.get_run(run.id).info.end_time == began
    stamps = {m.timestamp for name in ("loss", "score") for m in client.get_metric_history(run.id, name)}
    assert stamps == {began}
    # `mlflow run` stamps its run once more when its child is gone; a process of its own takes that back.
    client.set_terminated(run.id)
    assert client.get_run(run.id).info.end_time > began
    gone = subprocess.Popen(["true"])
    gone.wait()
    watcher = [sys.executable, "-m", "dpib.tracking.timeless", store.uri, run.id, str(gone.pid), "0"]
    subprocess.run(watcher, cwd=root, check=True)
    assert client.get_run(run.id).info.end_time == began
    assert client.get_run(run.id).info.status == "FINISHED"


def test_a_timeless_run_that_was_killed_tells_no_time_either(store):
    run = store.begin(store.experiment("toy", "Toy"), "r", {"dpib.stage": "sweep"}, None)
    store.hide_times(run)
    run.tag({"dpib.process": "1:0"})  # of a process that is gone
    assert store.reap() == [run.id]
    info = mlflow.MlflowClient().get_run(run.id).info
    assert (info.status, info.end_time) == ("KILLED", info.start_time)
    run.finish()
