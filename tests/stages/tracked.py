"""What the store holds of a run."""

import mlflow

from dpib.privacy.ledger import LEDGER, Account


def children(run):
    found = mlflow.search_runs(
        [run.info.experiment_id],
        filter_string=f"tags.`mlflow.parentRunId` = '{run.info.run_id}'",
        output_format="list",
    )
    return {r.data.tags["dpib.stage"]: r for r in found}


def artifacts(run_id, folder=""):
    client, found = mlflow.MlflowClient(), set()
    for item in client.list_artifacts(run_id, folder):
        found |= artifacts(run_id, item.path) if item.is_dir else {item.path}
    return found


def ledger_of(store, run):
    return Account.parse(store.fetch(run, str(LEDGER)).read_text())
