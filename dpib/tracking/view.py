"""The ready-made view of the runs table: which columns it shows and where to open it."""

import json

VIEW_NAME = "dpib"

_COLUMNS = (
    "attributes.`Duration`",
    "params.`cfg.method`",
    "params.`cfg.profile`",
    "params.`cfg.epsilon`",
    "metrics.`privacy/epsilon`",
    "metrics.`utility/accuracy_best`",
    "metrics.`utility/accuracy_mean`",
    "metrics.`fidelity/fid`",
    "metrics.`fidelity_random/fid`",
    "metrics.`fidelity/precision`",
    "metrics.`fidelity/recall`",
)


def view_state() -> str:
    """Return the state of the runs table as the tracking UI keeps it: `main` runs, newest first."""
    return json.dumps(
        {
            "searchFilter": "tags.`dpib.stage` = 'main'",
            "orderByKey": "attributes.start_time",
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": list(_COLUMNS),
            "runsExpanded": {},
            "runsPinned": [],
            "runsHidden": [],
        }
    )


def address(server: str, experiment: str) -> str:
    """Return the address of an experiment's runs in that view."""
    query = f"workflowType=machine_learning&viewStateShareKey={VIEW_NAME}"
    return f"{server.rstrip('/')}/#/experiments/{experiment}/runs?{query}"
