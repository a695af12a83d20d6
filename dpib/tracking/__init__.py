"""Tracked runs: the only package that imports mlflow."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # `patience` tries again, with shorter pauses

from dpib.tracking.run import Run
from dpib.tracking.store import Record, Store

__all__ = ["Record", "Run", "Store"]
