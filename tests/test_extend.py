"""docs/extend.md, followed to the letter: its files are written out and run from outside the package."""

import re

import mlflow
import numpy as np
import pytest
import torch

from dpib.config import compose
from dpib.pipeline import run_main
from dpib.tracking import Store


@pytest.fixture
def outside(root, tmp_path):
    """Write every file that the page shows into a folder of its own and return that folder."""
    text = (root / "docs" / "extend.md").read_text()
    blocks = re.findall(r"`([\w.-]+)`:\n\n```\w+\n(.*?)```", text, flags=re.DOTALL)
    assert {name for name, _ in blocks} == {"mean-image.yaml", "mean_image.py", "halves.yaml", "mean_distance.py"}
    folder = tmp_path / "outside"
    folder.mkdir()
    for name, content in blocks:
        (folder / name).write_text(content)
    return folder


EVALUATION = ("eval.", "generate.")


def run(tiny, uri, **overrides):
    chosen = {k: v for k, v in tiny.items() if k.startswith(EVALUATION)}
    config, card = compose({**chosen, **{k.replace("__", "."): str(v) for k, v in overrides.items()}})
    return mlflow.get_run(run_main(config, card, Store(uri)).run_id)


def test_a_method_from_outside_runs_through_every_stage(outside, tiny, tracking_uri):
    tracked = run(tiny, tracking_uri, method=outside / "mean-image.yaml", train__shrink=0.9)
    assert tracked.info.run_name == "mean-image-digits_28-eps10-s0"
    assert tracked.data.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)
    assert tracked.data.params["cfg.train.shrink"] == "0.9"
    assert "utility/accuracy_best" in tracked.data.metrics


def test_the_outside_method_keeps_its_norm(outside):
    from dpib import registry

    feature = registry.load("synthesizer", f"{outside / 'mean_image.py'}:ScaledPixels")(3)
    white = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
    assert float(feature.norms(white, None)[0]) == pytest.approx(1)


def test_a_data_set_from_outside(outside, tiny, tracking_uri, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "root" / "halves").mkdir(parents=True)
    for split, n in (("train", 200), ("test", 40)):
        y = np.arange(n) % 2
        x = rng.integers(0, 60, (n, 8, 8), dtype=np.uint8)
        for i in range(n):
            x[i, 4 * y[i] : 4 * y[i] + 4] += 180
        np.savez(tmp_path / "root" / "halves" / f"{split}.npz", images=x, labels=y)
    tracked = run(
        tiny, tracking_uri, dataset=outside / "halves.yaml", data_root=tmp_path / "root",
        method=outside / "mean-image.yaml", eval__schedule__epochs=4, eval__schedule__lr=0.01,
    )  # fmt: skip
    assert mlflow.get_experiment(tracked.info.experiment_id).name == "dpib-halves"
    assert tracked.data.metrics["utility/accuracy_best"] > 90


def test_a_metric_from_outside(outside, tiny, tracking_uri):
    metric = f"['fid', '{outside / 'mean_distance.py'}:mean_distance']"
    tracked = run(tiny, tracking_uri, method=outside / "mean-image.yaml", eval__metrics=metric)
    assert tracked.data.metrics["fidelity_random/mean_distance"] > 0
