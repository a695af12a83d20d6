"""The critic of the benchmark's GAN: residual blocks with group norm, and a projection on the label's embedding.

No batch or spectral norm: the gradient of every record must be its own. See Miyato and Koyama 2018 (projection).
"""

import math
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from dpib.section import Positive, Section


class CriticSettings(Section):
    """Keys of `critic.*`."""

    width: Positive


class Critic(nn.Module):
    """Scores an image under a label; the higher, the more real.

    Three blocks below 32 pixels and four from there on, the first two of them halving the sides, above 32 pixels all.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, settings: CriticSettings) -> None:
        super().__init__()
        channels, side, _ = shape
        width = settings.width
        blocks, halvings = (3 if side < 32 else 4), (2 if side <= 32 else 4)
        self.entry = _Entry(channels, width)
        self.blocks = nn.Sequential(*(_Block(width, i < halvings) for i in range(1, blocks)))
        self.score = nn.Linear(width, 1)
        self.embedding = nn.Embedding(classes, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return scores [n] of images [n, c, h, w] in [-1, 1] with labels [n]."""
        h = F.relu(self.blocks(self.entry(x))).sum((2, 3))
        score: Tensor = self.score(h).squeeze(1) + (self.embedding(y) * h).sum(1)
        return score


class _Entry(nn.Module):
    """The first block, which halves the sides."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            _norm(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.AvgPool2d(2),
        )
        self.skip = nn.Sequential(nn.AvgPool2d(2), _norm(channels), nn.Conv2d(channels, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, c, h, w] to features [n, width, h/2, w/2]."""
        return cast(Tensor, self.body(x) + self.skip(x))


class _Block(nn.Module):
    """A pre-activation block, which may halve the sides."""

    def __init__(self, width: int, halves: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _norm(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            _norm(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.pool = nn.AvgPool2d(2) if halves else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        """Map features [n, width, h, w] to [n, width, h, w], or half the sides."""
        return cast(Tensor, self.pool(self.body(h) + h))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels), channels)
