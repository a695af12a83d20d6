"""The first analysis: a tidy frame by the store's names, tables with published figures, figures over epsilon."""

import math

import pandas as pd
import pytest

from analysis import compute, figures, load, published, report, tables
from dpib.config import compose
from dpib.tracking import Record


def run(method="dp-merf", dataset="mnist_28", epsilon=10, seed=0, accuracy=80.0, stage="main", **extra):
    tags = {"dpib.stage": stage, "dpib.method": method, "dpib.dataset": dataset, "dpib.private": "true"}
    params = {"cfg.epsilon": str(epsilon), "cfg.seed": str(seed), "cfg.profile": "fast", "cfg.note": "none",
              "cfg.train.steps": "275", "cfg.train.batch": "100", "cfg.public": "none"}  # fmt: skip
    metrics = {"utility/accuracy_best": accuracy, "privacy/epsilon": epsilon - 0.01, "other/x": 1.0, **extra}
    return Record(f"{method}-{epsilon}-{seed}-{accuracy}", "name", tags, params, metrics)


def test_the_frame_has_a_row_per_main_run_under_the_names_of_the_store():
    frame = load.frame([run(), run(stage="train"), run(seed=1, **{"fidelity/fid": 90.0})])
    assert list(frame["seed"]) == [0, 1]
    assert "other/x" not in frame
    assert math.isnan(frame["fidelity/fid"][0])
    assert frame["fidelity/fid"][1] == 90.0
    assert list(frame["private"]) == [True, True]


def test_mean_and_spread_are_over_seeds_and_the_newest_run_of_a_seed_counts():
    runs = load.frame(
        [run(accuracy=10.0), run(accuracy=80.0), run(seed=1, accuracy=84.0), run(epsilon=1, accuracy=70.0)]
    )
    table = tables.summary(runs).set_index("epsilon")
    assert table.loc[10, "runs"] == 2
    assert table.loc[10, "accuracy"] == 82.0
    assert table.loc[10, "accuracy_std"] == pytest.approx(2.828, abs=1e-3)
    assert table.loc[1, "runs"] == 1
    assert math.isnan(table.loc[1, "accuracy_std"])
    assert table.loc[10, "epsilon_spent"] == 9.99
    assert "fid_random" not in table


def test_the_published_figure_stands_beside_ours_where_there_is_one():
    table = tables.summary(load.frame([run(**{"fidelity/fid": 100.0}), run(dataset="digits_28"), run(epsilon=5)]))
    cell = table[(table["dataset"] == "mnist_28") & (table["epsilon"] == 10)].iloc[0]
    assert cell["accuracy_published"] == 81.3
    assert cell["fid_published"] == 106.3
    others = table[(table["dataset"] == "digits_28") | (table["epsilon"] == 5)]
    assert others["accuracy_published"].isna().all()


@pytest.mark.parametrize(
    ("method", "epsilon", "metric", "value"),
    [
        ("dp-merf", 1.0, "utility/accuracy_best", 80.3),
        ("dp-ldm-sd", 10.0, "utility/accuracy_best", 94.4),
        ("dp-feta", 10.0, "utility/accuracy_best", 98.1),
        ("dpdm", 10.0, "utility/accuracy_best", 97.7),
    ],
)
def test_published_figures_are_found_by_our_names(method, epsilon, metric, value):
    assert published.value(method, "mnist_28", epsilon, metric) == value


def test_the_fraction_of_published_training_counts_images():
    assert load.frame([run()])["published_compute"][0] == pytest.approx(275 / 2750)
    steps = {"train.steps": 10, "train.batch": 4, "pretrain.steps": 5, "pretrain.batch": 2}
    assert compute.images_seen(steps) == 40
    assert compute.images_seen({**steps, "public": "omniglot_28"}) == 50
    epochs = {"dataset": "mnist_28", "data.holdout": "5000", "train.epochs": "2", "train.batch": "4096"}
    assert compute.images_seen({**epochs, "train.steps": "none", "train.multiplicity": "32"}) == 2 * 55000 * 32
    public = {"public": "omniglot_28", "pretrain.epochs": 3, "pretrain.batch": 64, "pretrain.steps": None}
    assert compute.images_seen({**epochs, **public}) == 2 * 55000 + 3 * 4840
    assert compute.images_seen({**epochs, **public, "public": "some/folder"}) is None
    assert compute.fraction_of_published("unknown", "mnist_28", {}) is None


def test_the_fraction_counts_what_lessons_are_learnt_from():
    def seen(method, **more):
        flat = compose({"method": method, "dataset": "mnist_28", "profile": "fast", **more})[0].flat()
        assert compute.images_seen({key: str(value) for key, value in flat.items()}) == compute.images_seen(flat)
        return compute.images_seen(flat) - 500 * 1024

    assert seen("dpdm") == 0
    assert seen("pdp-diffusion", public="omniglot_28") == 3000 * 128
    assert seen("dp-feta") == 2000 * 50
    assert seen("feta-pro") == 1000 * 50 + 2000 * 128
    assert (
        seen("privimage", public="omniglot_28", **{"pretrain.epochs": "2", "pretrain.steps": "none"}) == 2 * 0.2 * 4840
    )


def test_a_figure_is_drawn_with_the_published_line_and_the_same_runs_give_the_same_file(tmp_path):
    table = tables.summary(load.frame([run(), run(epsilon=1, accuracy=70.0), run(seed=1, accuracy=82.0)]))
    drawn = figures.over_epsilon(table, "accuracy")
    labels = {text.get_text() for text in drawn.axes[0].get_legend().get_texts()}
    assert labels == {"dp-merf (fast)", "dp-merf, published"}
    assert figures.over_epsilon(table, "fid") is None
    for name in ("a", "b"):
        figures.save(drawn, tmp_path, name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.svg").stat().st_size > 5000


def test_a_report_is_csv_markdown_and_figures(tmp_path):
    text = report.write([run(), run(epsilon=1, accuracy=70.0)], tmp_path)
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {
        "runs.csv", "summary.csv", "summary.md", "accuracy_over_epsilon.svg", "accuracy_over_epsilon.png",
    }  # fmt: skip
    assert (tmp_path / "summary.md").read_text() == text
    assert "| dp-merf | mnist_28 | fast | 10 | 1 |" in text
    assert "nan" not in text
    assert len(pd.read_csv(tmp_path / "summary.csv")) == 2


def test_a_report_of_no_runs_is_empty_and_not_an_error(tmp_path):
    assert report.write([], tmp_path).startswith("| method | dataset")
