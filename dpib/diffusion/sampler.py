"""From noise to images: the published "ddim" (Euler on EDM's ODE) and "edm" (stochastic Heun), with guidance."""

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dpib.diffusion.preconditioning import SIGMA_DATA, denoised
from dpib.section import Positive, Section


class SamplerSettings(Section):
    """Keys of `sampler.*`."""

    name: Literal["ddim", "edm"]
    steps: Positive = Field(description="ddim: network calls per image; edm: half of them")
    guidance: float = Field(default=0.0, ge=0, description="0: conditional; w adds w (conditional - unconditional)")
    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    rho: float = Field(default=7.0, gt=0)
    churn: float = Field(default=0.0, ge=0, description="edm: how much noise is renewed on the way")
    churn_min: float = Field(default=0.0, ge=0, description="edm: no renewal below this noise level")
    churn_max: float = Field(default=50.0, ge=0, description="edm: nor above this one")


class Guided(nn.Module):
    """The raw network with classifier-free guidance (Ho and Salimans 2022); D is affine in F, so F may be mixed."""

    def __init__(self, model: nn.Module, null: int, guidance: float) -> None:
        super().__init__()
        self.model, self.null, self.guidance = model, null, guidance

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
        """Return F for the labels, pushed away from F for none."""
        conditional: Tensor = self.model(x, c_noise, labels)
        if self.guidance == 0:
            return conditional
        free: Tensor = self.model(x, c_noise, torch.full_like(labels, self.null))
        return conditional + self.guidance * (conditional - free)


@torch.no_grad()
def sample(
    model: nn.Module,
    labels: Tensor,
    shape: tuple[int, int, int],
    settings: SamplerSettings,
    null: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw one image per label.

    Args:
        model: the raw network F(x, c_noise, labels).
        labels: int64 [n], on the model's device.
        shape: of one image.
        settings: which sampler, and its steps.
        null: the label that means "no class".
        generator: decides the images; a CPU generator, from which one for the device is derived.

    Returns:
        float [n, *shape], about in [-1, 1].
    """
    seed = int(torch.randint(0, 2**62, (), generator=generator))
    stream = torch.Generator(labels.device).manual_seed(seed)
    start = torch.randn(len(labels), *shape, generator=stream, device=labels.device) * settings.sigma_max
    guided = Guided(model, null, settings.guidance)
    walk = _ddim if settings.name == "ddim" else _edm
    return walk(guided, start, labels, settings, stream)


def _ddim(model: nn.Module, x: Tensor, labels: Tensor, settings: SamplerSettings, stream: torch.Generator) -> Tensor:
    """Deterministic Euler steps, the last of them from sigma_min to 0."""
    from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler  # takes seconds

    scheduler = EDMEulerScheduler(
        sigma_min=settings.sigma_min,
        sigma_max=settings.sigma_max,
        sigma_data=SIGMA_DATA,
        rho=settings.rho,
        prediction_type="epsilon",
    )
    scheduler.set_timesteps(settings.steps, device=x.device)
    for level in scheduler.timesteps:
        raw = model(scheduler.scale_model_input(x, level), level.expand(len(x)), labels)
        x = scheduler.step(raw, level, x, generator=stream, return_dict=False)[0]
    return x


def _edm(model: nn.Module, x: Tensor, labels: Tensor, settings: SamplerSettings, stream: torch.Generator) -> Tensor:
    """Algorithm 2 of EDM: renew some noise, an Euler step, and its correction by the slope at the other end."""
    levels = karras(settings).tolist()
    gamma = min(settings.churn / settings.steps, 2**0.5 - 1)

    def slope(x: Tensor, level: float) -> Tensor:
        sigma = torch.full((len(x),), level, device=x.device)
        return (x - denoised(model, x, sigma, labels)) / level

    for level, following in pairwise(levels):
        if gamma > 0 and settings.churn_min <= level <= settings.churn_max:
            raised = level * (1 + gamma)
            fresh = torch.randn(x.shape, generator=stream, device=x.device)
            x, level = x + (raised**2 - level**2) ** 0.5 * fresh, raised
        first = slope(x, level)
        guess = x + (following - level) * first
        if following > 0:
            guess = x + (following - level) * (first + slope(guess, following)) / 2
        x = guess
    return x


def karras(settings: SamplerSettings) -> Tensor:
    """Return the noise levels from sigma_max down to sigma_min, then 0: float64 [steps + 1]."""
    ramp = torch.linspace(0, 1, settings.steps, dtype=torch.float64)
    high, low = settings.sigma_max ** (1 / settings.rho), settings.sigma_min ** (1 / settings.rho)
    return torch.cat([(high + ramp * (low - high)) ** settings.rho, torch.zeros(1, dtype=torch.float64)])
