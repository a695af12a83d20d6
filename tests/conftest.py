"""Isolation: every test has its own home, data root and tracking store; none sees the user's."""

import shutil
from pathlib import Path

import mlflow
import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.postgres import postgres  # noqa: F401 - a fixture for all

TINY = {
    "precision": "fp32",  # the same on every machine
    "features.dimension": "200",
    "network.latent": "4",
    "network.width": "4",
    "network.hidden": "20",
    "train.steps": "12",
    "train.batch": "20",
    "pretrain.steps": "3",
    "pretrain.batch": "20",
    "generate.images": "120",
    "eval.classifiers.resnet": "{depth: 8, width: 8}",
    "eval.classifiers.wrn": "{depth: 10, widen: 1}",
    "eval.classifiers.resnext": "none",
    "eval.schedule.epochs": "2",
    "eval.schedule.batch": "20",
    "eval.max_real": "60",
}
"""Overrides that make every stage take seconds on the bundled digits."""

TINY_DIFFUSION = {
    "precision": "fp32",
    "epsilon": "1",  # more noise, and a faster calibration
    "network.nf": "8",
    "network.ch_mult": "[1]",
    "network.attn_resolutions": "[]",
    "network.patch": "4",
    "pretrain.batch": "16",
    "train.steps": "4",
    "train.batch": "20",
    "train.multiplicity": "1",
    "train.strategy": "loop",
    "train.physical": "16",
    "sampler.steps": "2",
}
"""The same for the diffusion methods."""

PRO = {
    "method": "feta-pro",
    "lessons.0.samples": "2",
    "lessons.0.batch": "100",
    "lessons.0.fit": "{steps: 3, batch: 8, augment: 2}",
    "lessons.1.features.dimension": "40",
    "lessons.1.network": "{name: small, latent: 4, width: 4, hidden: 20}",
    "lessons.1.generator": "{steps: 3, batch: 20, lr: 0.01}",
    "lessons.1.images": "40",
    "lessons.1.fit": "{steps: 4, batch: 8}",
}
PRIVIMAGE = {
    "method": "privimage",
    "public": "glyphs_28",
    "pretrain.steps": "3",
    "parts.semantics.epochs": "1",
    "parts.semantics.per_class": "10",
    "parts.semantics.batch": "20",
}
"""And what small ones of those with queries have beside these."""

torch.set_num_threads(1)

# The same examples on every run, however slow the machine; `pytest --hypothesis-profile=default` explores new ones.
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")


@pytest.fixture(scope="session")
def blank_store(tmp_path_factory):
    """Return a tracking database with its schema made; copying it is ten times faster than making one."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory):
    """Return a data root in which the bundled digits are prepared, and digits set in type as a public set."""
    from dpib.data.catalog import find_card
    from dpib.data.prepare import prepare

    root = tmp_path_factory.mktemp("data")
    for name in ("digits_28", "glyphs_28"):
        prepare(find_card(name, root), None, root, lambda _: None)
    return root


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch, digits_root):
    """Point home, data and tracking into the test's own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DPIB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DPIB_DATA", str(digits_root))
    # Test processes run side by side, one to a core, and so must the processes that they start.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tracking_uri(tmp_path, blank_store, monkeypatch):
    """Return the address of a fresh local tracking store with its artifacts beside it."""
    shutil.copy(blank_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    return uri


@pytest.fixture
def tiny():
    """Return a copy of the overrides that make every stage take seconds."""
    return dict(TINY)


@pytest.fixture(scope="session")
def root():
    """Return the project's folder."""
    return Path(__file__).resolve().parents[1]
