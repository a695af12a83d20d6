"""Classifier training: it learns, it repeats, it averages."""

import pytest
import torch

from dpib.images import Images
from dpib.metrics.schedule import Schedule
from dpib.metrics.utility import accuracy, augmented, train_classifier
from dpib.nn.architectures import Classifiers, ResNet
from dpib.nn.classifiers import build

CPU = torch.device("cpu")
SCHEDULE = Schedule(optimizer="adam", lr=0.01, epochs=3, batch=20, one_cycle=True, ema=0.9)


def stripes(n, seed=0):
    """Return noisy images whose class is the direction of their stripes."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    rows = (torch.arange(28) % 4 < 2).float() * 200
    x = torch.where(y[:, None, None] == 0, rows[None, :, None], rows[None, None, :]).expand(n, 28, 28)
    noisy = (x + 50 * torch.randn(n, 28, 28, generator=g)).clamp(0, 255).to(torch.uint8)
    return Images(noisy[:, None], y)


def network(seed=0):
    torch.manual_seed(seed)
    only = Classifiers(resnet=ResNet(depth=8, width=8), wrn=None, resnext=None)
    return build(only, 1, 2)["resnet"]


def run(schedule, n=200, seed=0):
    epochs = []
    for epoch in train_classifier(network(), stripes(n), schedule, seed, "resnet", CPU):
        epochs.append((epoch.loss, epoch.predict(stripes(100, seed=1).x)))
    return epochs


@pytest.mark.parametrize(
    "schedule",
    [SCHEDULE, SCHEDULE.model_copy(update={"optimizer": "sgd", "lr": 0.1, "one_cycle": False, "weight_decay": 5e-4})],
    ids=["adam one-cycle", "sgd steps"],
)
def test_a_separable_problem_is_learned(schedule):
    epochs = run(schedule)
    assert len(epochs) == 3
    assert accuracy(epochs[-1][1] == stripes(100, seed=1).y) > 95


def test_training_repeats_from_its_seed():
    a, b, c = run(SCHEDULE), run(SCHEDULE), run(SCHEDULE, seed=1)
    assert [loss for loss, _ in a] == [loss for loss, _ in b]
    assert [loss for loss, _ in a] != [loss for loss, _ in c]


def test_too_few_images_for_one_batch():
    with pytest.raises(ValueError, match="do not fill one batch"):
        next(train_classifier(network(), stripes(10), SCHEDULE, 0, "resnet", CPU))


def test_accuracy_is_a_percentage():
    assert accuracy(torch.tensor([True, False, True, True])) == 75


def augment(x, **keys):
    schedule = Schedule(optimizer="adam", lr=0.1, epochs=1, batch=1, **keys)
    return augmented(x, schedule, torch.Generator().manual_seed(0))


def test_images_are_shifted_one_by_one_and_black_comes_in():
    x = torch.zeros(200, 1, 9, 9, dtype=torch.uint8)
    x[:, 0, 4, 4] = 255
    moved = augment(x, shift=2)
    assert moved.dtype == torch.uint8
    assert (moved.flatten(1).sum(1, dtype=torch.int64) == 255).all()
    places = {tuple(place) for place in (moved[:, 0] == 255).nonzero()[:, 1:].tolist()}
    assert places == {(i, j) for i in range(2, 7) for j in range(2, 7)}


def test_half_of_the_images_are_mirrored():
    x = torch.arange(9, dtype=torch.uint8).reshape(1, 1, 3, 3).repeat(400, 1, 1, 1)
    mirrored = [bool((image == x[0].flip(2)).all()) for image in augment(x, flip=True)]
    assert 150 < sum(mirrored) < 250


def test_without_augmentation_images_are_left_alone():
    x = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    assert augment(x) is x
