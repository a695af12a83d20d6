"""docs/extend.md, followed to the letter: its files are written out and run from outside the package."""

import re
import runpy

import mlflow
import pytest
import torch
from click.testing import CliRunner

from dpib.config import compose
from dpib.errors import UserError
from dpib.pipeline import run_main
from dpib.privacy.ledger import Account
from dpib.tracking import Store
from entrypoints.prepare import main as prepare
from tests.conftest import TINY_DIFFUSION


@pytest.fixture
def outside(root, tmp_path):
    """Write every file that the page shows into a folder of its own and return that folder."""
    text = (root / "docs" / "extend.md").read_text()
    blocks = re.findall(r"`([\w.-]+)`:\n\n```\w+\n(.*?)```", text, flags=re.DOTALL)
    names = {name for name, _ in blocks}
    methods = {"mean-image.yaml", "mean_image.py", "edges.py", "spread.py"}
    assert names == {*methods, "halves.yaml", "make_halves.py", "mean_distance.py"}
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


def test_a_feature_map_from_outside_stands_in_for_that_of_the_recipe(outside, tiny, tracking_uri):
    kind = f"{outside / 'edges.py'}:Edges"
    own = {"features__kind": kind, "features__dimension": 100}
    small = {k.replace(".", "__"): v for k, v in tiny.items() if k.startswith(("network.", "train."))}
    tracked = run(tiny, tracking_uri, method="dp-merf", eval__mode="syn", **small, **own)
    assert tracked.data.params["cfg.features.kind"] == kind
    assert tracked.data.params["cfg.features.variance"] == "10.0"
    assert "cfg.features.bandwidths" not in tracked.data.params
    assert tracked.data.metrics["privacy/epsilon"] == pytest.approx(10, rel=1e-3)
    other = "{kind: fourier, dimension: 20, bandwidths: [15, 60]}"
    beside = f"{{kind: joined, shares: [0.5, 0.5], maps: [{{kind: '{kind}'}}, {other}]}}"
    config, _ = compose({"method": "dp-merf", "features": beside})
    assert [type(own).__name__ for own in config.recipe.features.maps] == ["EdgesSettings", "FourierSettings"]


def test_the_outside_feature_map_keeps_its_norm(outside):
    from dpib import registry, seeding
    from dpib.kernels.features import build

    settings = registry.chosen("features")({"kind": f"{outside / 'edges.py'}:Edges"})
    features = build(settings, (1, 8, 8), seeding.generator(0, "w"), torch.device("cpu"))
    assert features.map(torch.rand(5, 1, 8, 8)).norm(dim=1).tolist() == pytest.approx([1.0] * 5)


def test_a_lesson_from_outside_is_asked_learnt_and_charged(outside, tiny, tracking_uri):
    spread = (
        f"{{kind: '{outside / 'spread.py'}:Spread', noise_multiplier: 20, images: 40, fit: {{steps: 3, batch: 8}}}}"
    )
    small = {key.replace(".", "__"): value for key, value in TINY_DIFFUSION.items() if key != "epsilon"}
    tracked = run(tiny, tracking_uri, method="dp-feta", lessons=f"[{spread}]", eval__mode="syn", **small)
    ledger = Account.parse(Store(tracking_uri).fetch(tracked.info.run_id, "privacy/ledger.json").read_text())
    assert [(event.id, event.sigma) for event in ledger.events][:1] == [("train/before/spread", 20.0)]
    assert ledger.spent() == pytest.approx(10, rel=2e-3)
    assert "dpib.run.query" in tracked.data.tags


def test_the_outside_lesson_keeps_its_norm(outside):
    from dpib import registry

    feature = registry.load("lesson", f"{outside / 'spread.py'}:Brightness")(3)
    white = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
    assert float(feature.norms(white, None)[0]) == pytest.approx(1)


def test_the_outside_method_keeps_its_norm(outside):
    from dpib import registry

    feature = registry.load("synthesizer", f"{outside / 'mean_image.py'}:ScaledPixels")(3)
    white = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
    assert float(feature.norms(white, None)[0]) == pytest.approx(1)


def advised(error):
    """Return the prepare command that an error advises, as its arguments."""
    entry, _, rest = str(error.value).partition("Run: mlflow run . --env-manager local -e ")[2].partition(" ")
    assert entry == "prepare"
    return [f"--{pair}" for pair in re.findall(r"-P (\w+=\S+)", rest) if not pair.endswith("<folder")]


def test_a_data_set_from_outside(outside, root, tiny, tracking_uri, tmp_path):
    text = (root / "docs" / "extend.md").read_text()
    assert "-e prepare -P dataset=path/to/halves.yaml -P source=path/to/halves\n" in text
    runpy.run_path(str(outside / "make_halves.py"))
    with pytest.raises(UserError, match="is not prepared") as error:
        run(tiny, tracking_uri, dataset=outside / "halves.yaml", data_root=tmp_path / "root")
    arguments = [*advised(error), f"--source={outside / 'halves'}", f"--data_root={tmp_path / 'root'}"]
    assert f"--dataset={outside / 'halves.yaml'}" in arguments
    prepared = CliRunner().invoke(prepare, arguments)
    assert prepared.exit_code == 0, prepared.output
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
