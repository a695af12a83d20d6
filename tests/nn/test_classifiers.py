"""The published classifiers: sizes, shapes, and the averaged network."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from dpib.nn.architectures import Classifiers, ResNet, ResNeXt, WideResNet
from dpib.nn.classifiers import build
from dpib.nn.ema import MovingAverage

PUBLISHED = Classifiers(
    resnet=ResNet(depth=110),
    wrn=WideResNet(depth=40, widen=4, dropout=0.3),
    resnext=ResNeXt(depth=29, cardinality=8, widen=4),
)
PUBLISHED_CIFAR = Classifiers(
    resnet=ResNet(depth=164),
    wrn=WideResNet(depth=28, widen=10, dropout=0.3),
    resnext=ResNeXt(depth=20, cardinality=8, widen=10),
)
SMALL = Classifiers(
    resnet=ResNet(depth=8, width=8),
    wrn=WideResNet(depth=10, widen=1, dropout=0.1),
    resnext=ResNeXt(depth=11, cardinality=2, widen=2, width=8),
)


@pytest.mark.parametrize(
    ("classifiers", "channels", "millions"),
    [
        (PUBLISHED, 1, {"resnet": 1.73, "wrn": 8.95, "resnext": 34.43}),
        (PUBLISHED_CIFAR, 3, {"resnet": 2.61, "wrn": 36.48, "resnext": 40.56}),
    ],
)
def test_parameter_counts_match_the_published_ones(classifiers, channels, millions):
    for name, network in build(classifiers, channels, 10).items():
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions[name], abs=0.005)


@pytest.mark.parametrize("side", [28, 32, 64])
def test_logits_for_every_size(side):
    for network in build(SMALL, 3, 7).values():
        assert network(torch.randn(2, 3, side, side)).shape == (2, 7)


def test_a_classifier_can_be_left_out():
    assert list(build(SMALL.model_copy(update={"wrn": None}), 1, 10)) == ["resnet", "resnext"]


@pytest.mark.parametrize("depth", [9, 2])
def test_a_depth_that_does_not_exist_is_refused(depth):
    with pytest.raises(ValueError, match=r"is not 6 n \+ 2"):
        build(SMALL.model_copy(update={"resnet": ResNet(depth=depth)}), 1, 10)


def test_the_average_takes_batch_norm_statistics_along():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = MovingAverage(network, decay=0.5)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for step in range(12):
        network(torch.randn(8, 3) + step)
        with torch.no_grad():
            network[0].weight += 1
        average.update(network)
        decay = min(0.5, (2 + step) / (11 + step))
        for name in ("0.weight", "1.running_mean", "1.running_var"):
            expected[name] = decay * expected[name] + (1 - decay) * network.state_dict()[name]
    for name in ("0.weight", "1.running_mean", "1.running_var"):
        assert torch.allclose(average.network.state_dict()[name], expected[name], atol=1e-5)
    assert not average.network.training


def test_a_width_on_which_a_kernel_would_hang_is_refused():
    with pytest.raises(ValidationError, match="multiple of 8"):
        ResNet(depth=8, width=4)
