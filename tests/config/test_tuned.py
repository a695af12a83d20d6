"""Every tuned file fits its method, also for data sets whose cards are still to come."""

import importlib
from pathlib import Path

import pytest

from dpib.config import compose
from dpib.diffusion.settings import DiffusionSettings

FILES = sorted((Path(__file__).parents[2] / "configs" / "tuned").glob("*/*.yaml"))
OWN = [file for file in FILES if file.parent.name != "pixel-diffusion"]


@pytest.mark.parametrize("epsilon", ["1", "10"])
@pytest.mark.parametrize("file", OWN, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_tuned_file_is_laid_over_its_method(file, epsilon, monkeypatch):
    module = importlib.import_module("dpib.config.compose")
    sound = module._tuned
    monkeypatch.setattr(module, "_tuned", lambda names, dataset: sound(names, file.stem))
    config, _ = compose({"method": file.parent.name, "dataset": "cifar10_32", "profile": "paper", "epsilon": epsilon})
    assert config.method == file.parent.name


def published(method, dataset, epsilon):
    config, _ = compose({"method": method, "dataset": dataset, "profile": "paper", "epsilon": epsilon})
    assert isinstance(config.recipe, DiffusionSettings)
    return config.recipe


def test_published_queries_are_those_of_the_benchmark():
    selected = published("privimage", "cifar10_32", "1")
    assert [(x.ratio, x.noise_multiplier) for x in selected.lessons] == [(0.05, 50)]
    assert selected.fit_of(selected.lessons[0]).epochs == 3200
    for epsilon in ("1", "10"):
        (central,) = published("dp-feta", "mnist_28", epsilon).lessons
        assert (central.samples, central.batch, central.noise_multiplier) == (5, 6000, 5)
    for dataset, epsilon, noises, width in (
        ("mnist_28", "1", (20, 26.6), 41), ("mnist_28", "10", (5, 7.4), 41),
        ("cifar10_32", "1", (15, 32.6), 60), ("cifar10_32", "10", (5, 8.2), 60),
    ):  # fmt: skip
        recipe = published("feta-pro", dataset, epsilon)
        central, frequency = recipe.lessons
        assert (central.noise_multiplier, frequency.noise_multiplier) == noises
        assert frequency.network.width == width
        assert (recipe.fit_of(central).epochs, recipe.fit_of(frequency).epochs) == (1000, 10)
        assert (recipe.fit_of(central).flip, recipe.fit_of(frequency).batch) == (False, 256)
    # The kernel's variance for all pixels is what was published: 105.
    (variance,) = published("feta-pro", "cifar10_32", "1").lessons[1].features.bandwidths
    assert variance * 3072 / 784 == pytest.approx(105, rel=1e-3)
