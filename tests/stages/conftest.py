"""A tracking store, and main runs on the bundled digits."""

import mlflow
import pytest

from dpib.config import compose
from dpib.pipeline import run_main
from dpib.tracking import Store


@pytest.fixture
def store(tracking_uri):
    return Store(tracking_uri)


@pytest.fixture
def go(store, tiny):
    """Return a function that runs `main` with overrides and returns (result, the tracked run)."""

    def run(**overrides):
        config, card = compose({**tiny, **{k.replace("__", "."): str(v) for k, v in overrides.items()}})
        result = run_main(config, card, store)
        return result, mlflow.get_run(result.run_id)

    return run
