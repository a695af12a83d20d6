"""Which runs a store finds: by fingerprint, by tag, page after page, and which of them it goes on with."""

from pathlib import Path

import mlflow
import pytest

from dpib.errors import UserError
from dpib.tracking import Store
from dpib.tracking.opening import database_file
from tests.ports import free_port


@pytest.fixture
def store(tracking_uri):
    return Store(tracking_uri)


@pytest.fixture
def made(store):
    """Return a function that makes a run and returns its id."""

    def make(name="r", stage="main", data="toy", status="FINISHED", **tags):
        tags = {"dpib.stage": stage, **{f"dpib.{key}": value for key, value in tags.items()}}
        run = store.begin(store.experiment(data, data), name, tags, None)
        run.final({"score": 1.0})
        if status is not None:
            run.finish(status)
        return run.id

    return make


@pytest.fixture
def pages_of_two(monkeypatch):
    """Let every search return two runs at a time."""
    search = mlflow.MlflowClient.search_runs

    def short(*arguments, **named):
        return search(*arguments, **{**named, "max_results": 2})

    monkeypatch.setattr(mlflow.MlflowClient, "search_runs", short)


def test_runs_are_listed_page_after_page_the_oldest_first(store, made, pages_of_two):
    runs = [made(f"r{i}") for i in range(5)]
    made(stage="train")
    made(status="FAILED")
    listed = store.records(experiment="dpib-toy")
    assert [record.run_id for record in listed] == runs
    assert [record.name for record in listed] == [f"r{i}" for i in range(5)]
    assert [record.run_id for record in store.records(runs[3:0:-2])] == [runs[3], runs[1]]
    with pytest.raises(UserError, match="no experiment 'dpib-other'"):
        store.records(experiment="dpib-other")


def test_runs_are_found_by_any_value_of_a_tag_with_commas(store, made, pages_of_two):
    both = [made(held_out="a1,b2") for _ in range(3)]
    broken = made(held_out="b2", status="FAILED")
    made(held_out="c3")
    elsewhere = made(held_out="a1", data="elsewhere")
    mlflow.MlflowClient().delete_run(both[0])  # what it spent stays spent
    found = store.tagged("dpib.held_out", ["a1", "b2"])
    assert sorted(found) == sorted([*((run, True) for run in (*both, elsewhere)), (broken, False)])
    assert store.tagged("dpib.held_out", []) == []


def test_finished_runs_are_found_by_stage_and_fingerprint_the_newest_first(store, made):
    first, second = (made(stage="train", fingerprint="f") for _ in range(2))
    made(stage="generate", fingerprint="f")
    made(stage="train", fingerprint="g")
    made(stage="train", fingerprint="f", status="KILLED")
    other = made(stage="train", fingerprint="f", data="elsewhere")
    assert store.find(store.experiment("toy", "Toy"), "train", "f") == [second, first]
    assert store.find(None, "train", "f") == [other, second, first]


def test_only_what_is_unfinished_and_there_is_gone_on_with(store, made):
    killed, deleted, finished = made(status="KILLED"), made(status="KILLED"), made()
    mlflow.MlflowClient().delete_run(deleted)
    assert [store.resume(run) for run in (deleted, finished, "f" * 32)] == [None, None, None]
    run = store.resume(killed)
    assert run is not None
    assert mlflow.get_run(killed).info.status == "RUNNING"
    run.finish()
    store.close("f" * 32)  # of another store: nothing to close


def test_the_newest_experiment_is_that_of_the_newest_run(store, made):
    with pytest.raises(UserError, match="no runs at"):
        store.newest_experiment()
    made(data="b")
    made(data="a")
    store.experiment("c", "C")
    assert store.newest_experiment() == store.experiment("a", "A")


def test_a_run_takes_over_the_one_that_mlflow_made_for_it_and_a_child_does_not(store, monkeypatch):
    client, experiment = mlflow.MlflowClient(), store.experiment("toy", "Toy")
    given = client.create_run(experiment, tags={"mlflow.source.git.commit": "abc"}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    child = store.begin(experiment, "child", {"dpib.stage": "train"}, given)
    assert child.id != given
    assert store.tags(child.id)["mlflow.parentRunId"] == given
    run = store.begin(experiment, "mine", {"dpib.stage": "main"}, None)
    assert run.id == given
    assert client.get_run(given).info.run_name == "mine"
    another = store.begin(experiment, "another", {"dpib.stage": "main"}, None)  # it is taken
    assert another.id != given
    for each in (child, run, another):
        each.finish()


def test_a_run_elsewhere_keeps_where_its_code_came_from(store, monkeypatch):
    client = mlflow.MlflowClient()
    given = client.create_run("0", tags={"mlflow.source.git.commit": "abc", "mlflow.log": "x"}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    run = store.begin(store.experiment("toy", "Toy"), "mine", {"dpib.stage": "main"}, None)
    run.finish()
    tags = store.tags(run.id)
    assert tags["mlflow.source.git.commit"] == "abc"
    assert "mlflow.log" not in tags
    assert store.tags(given)["dpib.run"] == run.id
    assert store.follow(given) == run.id


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////a/b.db", Path("/a/b.db")),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("sqlite:nonsense", None),
        ("postgresql://h/x", None),
    ],
)
def test_only_a_local_database_has_a_file(uri, file):
    assert database_file(uri) == file


def test_what_ails_an_address_is_said_in_few_words():
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=rf"no MLflow server answers at {uri} \(Connection refused\): check"):
        Store(uri)
