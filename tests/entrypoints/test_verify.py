"""`verify` on files and runs: its exit code is the answer."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from dpib.privacy.events import Charge
from dpib.privacy.ledger import Account
from dpib.stages.generate import statement_text
from entrypoints.verify import main


def account(sigma=4.0):
    event = Charge("a", "gaussian", "a release", sigma=sigma).event("train", 100, "zero_out")
    return Account(dataset="toy", relation="zero_out", epsilon=2.0, delta=1e-5, scopes={"train": 100}, events=[event])


def run(source):
    return CliRunner().invoke(main, ["--ledger", str(source)])


def test_a_ledger_file(tmp_path):
    (tmp_path / "ledger.json").write_text(account().text())
    result = run(tmp_path / "ledger.json")
    assert result.exit_code == 0
    assert "the budget holds" in result.output


def test_a_ledger_file_over_its_budget(tmp_path):
    (tmp_path / "ledger.json").write_text(account(sigma=1.0).text())
    result = run(tmp_path / "ledger.json")
    assert result.exit_code == 1
    assert "WRONG: the releases cost" in result.output


def gen(path, change=lambda statement: None):
    statement = json.loads(statement_text(account(), "toy"))
    change(statement)
    np.savez(
        path, x=np.zeros((1, 1, 2, 2), np.uint8), y=np.zeros(1, np.int64), statement=np.asarray(json.dumps(statement))
    )
    return path


def test_a_synthetic_set_with_a_true_statement(tmp_path):
    result = run(gen(tmp_path / "gen.npz"))
    assert result.exit_code == 0
    assert "the stated epsilon holds" in result.output


def test_a_synthetic_set_that_states_less_than_it_cost(tmp_path):
    result = run(gen(tmp_path / "gen.npz", lambda s: s.update(epsilon=0.5)))
    assert result.exit_code == 1
    assert "epsilon 0.5 is stated, but the releases cost" in result.output


def test_an_event_left_out_of_the_ledger(tmp_path):
    assert run(gen(tmp_path / "gen.npz", lambda s: s["ledger"].update(events=[]))).exit_code == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("ledger"), "holds no ledger"),
        (lambda s: s["ledger"]["events"][0].update(kind="os.system"), "kind"),
        (lambda s: s.update(epsilon="lots"), "holds no ledger"),
    ],
)
def test_a_foreign_statement_is_one_line(tmp_path, change, says):
    result = run(gen(tmp_path / "gen.npz", change))
    assert result.exit_code == 1
    assert says in result.output
    assert result.output.count("\n") == 1


def test_a_set_without_a_statement(tmp_path):
    np.savez(tmp_path / "gen.npz", x=np.zeros((1, 1, 2, 2), np.uint8))
    assert "carries no privacy statement" in run(tmp_path / "gen.npz").output


def test_a_run_by_its_id(tracking_uri, tmp_path):
    import mlflow

    (tmp_path / "ledger.json").write_text(account().text())
    with mlflow.start_run() as active:
        mlflow.log_artifact(str(tmp_path / "ledger.json"), "privacy")
        mlflow.log_metric("privacy/epsilon", account().spent())
    assert run(active.info.run_id).exit_code == 0
    mlflow.MlflowClient().log_metric(active.info.run_id, "privacy/epsilon", 0.3)
    assert "epsilon 0.3 is stated" in run(active.info.run_id).output


def test_a_run_that_is_not_there(tracking_uri):
    result = run("0123456789abcdef")
    assert result.exit_code == 1
    assert "no run" in result.output
