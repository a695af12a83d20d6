"""Small models and losses for the tests of the DP-SGD engine."""

import torch
from torch import nn

from dpib import seeding
from dpib.images import Images
from dpib.privacy.events import Charge
from dpib.privacy.gradients import GradientSpec

CLIP = 0.05


class Denoise:
    """K noisy copies of an image, each compared with it: the shape of a diffusion loss.

    A record whose first pixel is 255 has its loss times `scale`: the adversary's record.
    """

    def __init__(self, multiplicity=1, scale=1.0, layout=torch.contiguous_format):
        self.multiplicity, self.scale, self.layout = multiplicity, scale, layout
        self.drawn = []

    def rows(self, x, y, draws):
        self.drawn += x[:, 0, -1, -1].tolist()
        k = self.multiplicity
        marked = x[:, 0, 0, 0] == 255
        weight = torch.where(marked, torch.tensor(self.scale), torch.ones(1))[:, None].expand(-1, k)
        noise = draws.normal(k, *x.shape[1:])
        clean = (x.float() / 127.5 - 1)[:, None].expand_as(noise)
        return clean, noise, y[:, None].expand(-1, k), weight

    def per_row(self, model, clean, noise, y, weight):
        output = model((clean + noise).contiguous(memory_format=self.layout), y)
        return weight * (output - noise).pow(2).flatten(1).mean(1)


class Net(nn.Module):
    """Convolution (strided, grouped), group norm, class embedding, linear and layer norm on 8 x 8 gray images."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.classes = nn.Embedding(4, 8)
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2, dilation=1)
        self.layer = nn.LayerNorm([16, 8])
        self.mix = nn.Linear(8, 8, bias=False)
        self.leave = nn.Linear(8 * 16, 64)

    def forward(self, x, y):
        hidden = torch.tanh(self.norm(self.enter(x))) + self.classes(y)[:, :, None, None]
        tokens = self.down(hidden).flatten(2).mT
        tokens = tokens + torch.tanh(self.mix(self.layer(tokens)))
        return self.leave(tokens.flatten(1)).view(-1, 1, 8, 8)


class Sequence(nn.Module):
    """Layers in a row that ignore the label."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x, y):
        return self.layers(x)


class Diffusers(nn.Module):
    """A diffusers U-Net with attention and class embedding on 8 x 8 images."""

    def __init__(self):
        from diffusers import UNet2DModel

        super().__init__()
        self.unet = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(16, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            norm_num_groups=8,
            num_class_embeds=4,
        )

    def forward(self, x, y):
        return self.unet(x, torch.full((len(x),), 3.0), class_labels=y).sample


def make(kind):
    """Return a model with fixed random parameters."""
    with seeding.seeded(0, "net"):
        return kind()


def toy(n, last=None):
    """Return `n` random gray images of 8 pixels in 3 classes, each with its position in the last pixel."""
    stream = torch.Generator().manual_seed(0)
    x = torch.randint(0, 255, (n, 1, 8, 8), generator=stream, dtype=torch.uint8)
    x[:, 0, -1, -1] = torch.arange(n)
    if last is not None:
        x[-1] = last
    return Images(x, torch.arange(n) % 3)


def flat(tensors):
    """Return all entries of a list of tensors, float64 [n]."""
    return torch.cat([t.detach().double().flatten() for t in tensors])


def plan(**kwargs):
    """Return a plan with the one charge `sgd`."""
    return (Charge("sgd", "gaussian", "gradients", **{"sigma": 1.0, **kwargs}),)


def spec(**kwargs):
    """Return a specification that needs no choosing, unless asked."""
    return GradientSpec(**{"clip": CLIP, "seed": 0, "strategy": "loop", "physical": 2, "classes": 3, **kwargs})
