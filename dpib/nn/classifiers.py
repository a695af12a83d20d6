"""The three classifiers of the published utility protocol, for images of 28 to 64 pixels.

Stage layout for all: three stages with strides 1, 2, 2 and global average pooling.
ResNet: He et al. 2016; WRN: Zagoruyko and Komodakis 2016; ResNeXt: Xie et al. 2017.
"""

from collections.abc import Callable
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from dpib.nn.architectures import Classifiers, ResNet, ResNeXt, WideResNet, blocks_of

BlockMaker = Callable[[int, int, int], nn.Module]
"""Makes a block from its channels inside and outside, and its stride."""


def build(classifiers: Classifiers, channels: int, classes: int) -> dict[str, nn.Module]:
    """Return the configured networks by name, freshly initialised from torch's global generator."""
    networks: dict[str, nn.Module] = {}
    if classifiers.resnet is not None:
        networks["resnet"] = resnet(classifiers.resnet, channels, classes)
    if classifiers.wrn is not None:
        networks["wrn"] = wide_resnet(classifiers.wrn, channels, classes)
    if classifiers.resnext is not None:
        networks["resnext"] = resnext(classifiers.resnext, channels, classes)
    for network in networks.values():
        _initialise(network)
    return networks


def resnet(settings: ResNet, channels: int, classes: int) -> nn.Module:
    """Return a ResNet with basic blocks; depth 110 and width 16 make 1.73 M parameters."""
    blocks = blocks_of(settings.depth, 2, 6)
    w = settings.width
    return nn.Sequential(
        nn.Conv2d(channels, w, 3, padding=1, bias=False),
        nn.BatchNorm2d(w),
        nn.ReLU(),
        *_stages((w, w, 2 * w, 4 * w), blocks, BasicBlock),
        *_head(4 * w, classes),
    )


def wide_resnet(settings: WideResNet, channels: int, classes: int) -> nn.Module:
    """Return a wide ResNet with pre-activation blocks; 40-4 makes 8.95 M parameters."""
    blocks = blocks_of(settings.depth, 4, 6)
    k = 16 * settings.widen

    def block(inside: int, outside: int, stride: int) -> nn.Module:
        return WideBlock(inside, outside, stride, settings.dropout)

    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        *_stages((16, k, 2 * k, 4 * k), blocks, block),
        nn.BatchNorm2d(4 * k),
        nn.ReLU(),
        *_head(4 * k, classes),
    )


def resnext(settings: ResNeXt, channels: int, classes: int) -> nn.Module:
    """Return a ResNeXt with grouped bottlenecks; 29, 8 x 64d, widen 4 makes 34.4 M parameters."""
    blocks = blocks_of(settings.depth, 2, 9)
    w, outer = settings.width, settings.width * settings.widen

    def block(inside: int, outside: int, stride: int) -> nn.Module:
        inner = settings.cardinality * outside // settings.widen
        return Bottleneck(inside, inner, outside, stride, settings.cardinality)

    return nn.Sequential(
        nn.Conv2d(channels, w, 3, padding=1, bias=False),
        nn.BatchNorm2d(w),
        nn.ReLU(),
        *_stages((w, outer, 2 * outer, 4 * outer), blocks, block),
        *_head(4 * outer, classes),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = _shortcut(inside, outside, stride)

    def forward(self, h: Tensor) -> Tensor:
        """Map [n, inside, h, w] to [n, outside, h/stride, w/stride]."""
        return F.relu(self.body(h) + self.shortcut(h))


class WideBlock(nn.Module):
    """Pre-activation block with dropout between its convolutions."""

    def __init__(self, inside: int, outside: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.entry = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
        )
        self.project = nn.Conv2d(inside, outside, 1, stride, bias=False) if inside != outside or stride > 1 else None

    def forward(self, h: Tensor) -> Tensor:
        """Map [n, inside, h, w] to [n, outside, h/stride, w/stride]."""
        active = self.entry(h)
        return cast(Tensor, self.body(active) + (h if self.project is None else self.project(active)))


class Bottleneck(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolution around a shortcut."""

    def __init__(self, inside: int, inner: int, outside: int, stride: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = _shortcut(inside, outside, stride)

    def forward(self, h: Tensor) -> Tensor:
        """Map [n, inside, h, w] to [n, outside, h/stride, w/stride]."""
        return F.relu(self.body(h) + self.shortcut(h))


def _shortcut(inside: int, outside: int, stride: int) -> nn.Module:
    if inside == outside and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))


def _stages(widths: tuple[int, int, int, int], blocks: int, block: BlockMaker) -> list[nn.Module]:
    stages: list[nn.Module] = []
    for stride, inside, outside in zip((1, 2, 2), widths, widths[1:], strict=False):
        stages.append(block(inside, outside, stride))
        stages += [block(outside, outside, 1) for _ in range(blocks - 1)]
    return stages


def _head(width: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
