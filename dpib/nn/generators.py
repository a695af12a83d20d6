"""Generators from noise and label to an image in [0, 1], as the kernel and GAN methods use them."""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from dpib.section import Positive, Section


class GeneratorSettings(Section):
    """Keys of `network.*`; `width` means what the chosen network makes of it."""

    name: Literal["small", "biggan"]
    latent: Positive = Field(description="dimension of the noise")
    width: Positive
    hidden: Positive = Field(default=200, description="small: units of the hidden layer")
    shared: Positive = Field(default=128, description="biggan: dimension of the label embedding")
    grain: bool = Field(default=False, description="small: noise of learned strength on every pixel")


def build(settings: GeneratorSettings, shape: tuple[int, int, int], classes: int) -> "SmallGenerator | BigGenerator":
    """Return the configured generator, initialised from torch's global generator.

    Raises:
        ValueError: when it does not exist for this shape or latent dimension.
    """
    if settings.name == "small":
        return SmallGenerator(shape, classes, settings)
    return BigGenerator(shape, classes, settings)


class SmallGenerator(nn.Module):
    """The generator published with DP-MERF (Harder et al. 2021): two linear layers, two convolutions.

    With `grain` the last convolution also yields the strength of independent noise on each pixel's logit.
    Without it all images are smooth, at the cost of no visible fault but of many points of accuracy:
    classifiers trained on smooth images take real texture for another class. The strength is learned from
    the released embedding, which a kernel's average distance within a class depends on.

    Batch normalisation is safe here: it sees generated images only.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, settings: GeneratorSettings) -> None:
        super().__init__()
        channels, side, _ = shape
        if side % 4:
            raise ValueError(f"network.name=small needs a side divisible by 4, not {side}")
        self.shape, self.classes, self.grain = shape, classes, settings.grain
        self.smooth = settings.latent
        self.latent = settings.latent + (channels * side**2 if self.grain else 0)
        self.base, self.width = side // 4, settings.width
        inner = self.width * self.base**2
        self.body = nn.Sequential(
            nn.Linear(self.smooth + classes, settings.hidden),
            nn.BatchNorm1d(settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, inner),
            nn.BatchNorm1d(inner),
            nn.ReLU(),
        )
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.first = nn.Conv2d(self.width, self.width // 2, 5, padding=2)
        self.norm = nn.BatchNorm2d(self.width // 2)
        self.last = nn.Conv2d(self.width // 2, channels * (1 + self.grain), 5, padding=2)
        if self.grain:
            nn.init.zeros_(self.last.weight[channels:])
            nn.init.constant_(cast(Tensor, self.last.bias)[channels:], -1.0)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return images [n, c, h, w] in [0, 1] for noise [n, latent] and labels [n]."""
        h = self.body(torch.cat([z[:, : self.smooth], F.one_hot(y, self.classes).to(z)], 1))
        # Channels last: half as slow again otherwise on CPUs.
        h = h.view(-1, self.width, self.base, self.base).contiguous(memory_format=torch.channels_last)
        h = F.relu(self.norm(self.first(self.up(h))))
        logits, *strength = self.last(self.up(h)).split(self.shape[0], 1)
        if self.grain:
            logits = logits + F.softplus(strength[0]) * z[:, self.smooth :].view(-1, *self.shape)
        return torch.sigmoid(logits)


class BigGenerator(nn.Module):
    """The benchmark's BigGAN-like generator: residual blocks with label- and noise-conditional batch norm.

    Self-attention (SAGAN) follows the second block; every linear map is spectrally normalised. The noise
    is cut into one piece for the base and one per block. See Brock et al. 2019, Zhang et al. 2019.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, settings: GeneratorSettings) -> None:
        super().__init__()
        channels, side, _ = shape
        plans = {28: (7, 2), 32: (4, 3), 64: (8, 3), 128: (16, 3)}
        if side not in plans:
            raise ValueError(f"network.name=biggan draws images of 28, 32, 64 or 128 pixels, not {side}")
        self.base, blocks = plans[side]
        self.latent, self.width = settings.latent, 4 * settings.width
        if self.latent % (blocks + 1):
            raise ValueError(f"network.latent must be divisible by {blocks + 1} for images of {side} pixels")
        piece = self.latent // (blocks + 1)
        self.embedding = nn.Embedding(classes, settings.shared)
        self.entry = spectral_norm(nn.Linear(piece, self.width * self.base**2))
        self.blocks = nn.ModuleList(_Block(self.width, settings.shared + piece) for _ in range(blocks))
        self.attention = _SelfAttention(self.width)
        self.norm = nn.BatchNorm2d(self.width, eps=1e-4)
        self.exit = spectral_norm(nn.Conv2d(self.width, channels, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
                nn.init.orthogonal_(module.weight)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return images [n, c, h, w] in [0, 1] for noise [n, latent] and labels [n]."""
        first, *rest = z.chunk(len(self.blocks) + 1, dim=1)
        label = self.embedding(y)
        h = self.entry(first).view(-1, self.width, self.base, self.base)
        for i, (block, piece) in enumerate(zip(self.blocks, rest, strict=True)):
            h = block(h, torch.cat([label, piece], 1))
            if i == 1:
                h = self.attention(h)
        return (torch.tanh(self.exit(F.relu(self.norm(h)))) + 1) / 2


class _ConditionalNorm(nn.Module):
    """Batch norm whose gain and shift are linear in a condition."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, eps=1e-4, affine=False)
        self.gain = spectral_norm(nn.Linear(condition, width, bias=False))
        self.shift = spectral_norm(nn.Linear(condition, width, bias=False))

    def forward(self, h: Tensor, u: Tensor) -> Tensor:
        """Normalise features [n, width, h, w] under conditions [n, condition]."""
        gain: Tensor = 1 + self.gain(u)
        shift: Tensor = self.shift(u)
        normal: Tensor = self.norm(h)
        return normal * gain[..., None, None] + shift[..., None, None]


class _Block(nn.Module):
    """Residual block that doubles the resolution."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(_ConditionalNorm(width, condition) for _ in range(2))
        self.convs = nn.ModuleList(spectral_norm(nn.Conv2d(width, width, 3, padding=1)) for _ in range(2))
        self.skip = spectral_norm(nn.Conv2d(width, width, 1))

    def forward(self, h: Tensor, u: Tensor) -> Tensor:
        """Map features [n, width, h, w] and conditions [n, condition] to [n, width, 2h, 2w]."""
        out = F.interpolate(F.relu(self.norms[0](h, u)), scale_factor=2.0)
        out = F.relu(self.norms[1](self.convs[0](out), u))
        return cast(Tensor, self.convs[1](out) + self.skip(F.interpolate(h, scale_factor=2.0)))


class _SelfAttention(nn.Module):
    """SAGAN attention with pooled keys and values; a gate that starts at 0 lets it in gradually."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = spectral_norm(nn.Conv2d(width, width // 8, 1, bias=False))
        self.key = spectral_norm(nn.Conv2d(width, width // 8, 1, bias=False))
        self.value = spectral_norm(nn.Conv2d(width, width // 2, 1, bias=False))
        self.out = spectral_norm(nn.Conv2d(width // 2, width, 1, bias=False))
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, h: Tensor) -> Tensor:
        """Return features of the same shape [n, width, h, w]."""
        q = self.query(h).flatten(2).transpose(1, 2)
        k = F.max_pool2d(self.key(h), 2).flatten(2).transpose(1, 2)
        v = F.max_pool2d(self.value(h), 2).flatten(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2)
        out: Tensor = self.out(mixed.reshape(h.shape[0], -1, *h.shape[2:]))
        return h + self.gate * out
