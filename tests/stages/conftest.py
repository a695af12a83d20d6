"""A tracking store, and main runs on the bundled digits."""

import shutil

import mlflow
import pytest

from dpib.config import compose
from dpib.pipeline import run_main
from dpib.tracking import Store
from tests.conftest import PRIVIMAGE, PRO, TINY_DIFFUSION


@pytest.fixture
def store(tracking_uri):
    return Store(tracking_uri)


ONE = {"eval.classifiers.wrn": "none", "eval.schedule.epochs": "1", "generate.images": "60"}


@pytest.fixture
def data_root(tmp_path, digits_root, monkeypatch):
    """Return a data root of the test's own that holds the digits and the glyphs."""
    copy = tmp_path / "own-data"
    shutil.copytree(digits_root, copy)
    monkeypatch.setenv("DPIB_DATA", str(copy))
    return copy


@pytest.fixture
def small(tiny):
    def make(**changed):
        return compose({**tiny, **ONE, **{k.replace("__", "."): str(v) for k, v in changed.items()}})

    return make


@pytest.fixture
def go(store, tiny):
    """Return a function that runs `main` with overrides and returns (result, the tracked run)."""

    def run(**overrides):
        config, card = compose({**tiny, **{k.replace("__", "."): str(v) for k, v in overrides.items()}})
        result = run_main(config, card, store)
        return result, mlflow.get_run(result.run_id)

    return run


def tiny_of(tiny, recipe, **changed):
    common = {k: v for k, v in tiny.items() if k.startswith(("generate", "eval"))}
    diffusion = {k: v for k, v in TINY_DIFFUSION.items() if k != "epsilon"}
    told = {k.replace("__", "."): v for k, v in changed.items()}
    return {**common, **diffusion, "epsilon": "10", "accountant": "rdp", **recipe, **told}


@pytest.fixture
def pro(tiny):
    """Return a maker of (configuration, card) of a small FETA-Pro."""
    return lambda **changed: compose(tiny_of(tiny, PRO, **changed))


@pytest.fixture
def privimage(tiny):
    """Return the same of a small PrivImage."""
    return lambda **changed: compose(tiny_of(tiny, PRIVIMAGE, **changed))
