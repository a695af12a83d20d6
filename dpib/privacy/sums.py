"""The sum of a bounded feature over sensitive records: what a release adds its noise to."""

import torch
from torch import Tensor

from dpib.images import Images
from dpib.privacy.events import Charge
from dpib.privacy.mechanisms import Feature
from dpib.privacy.rng import NoiseSource
from dpib.privacy.sampling import poisson


def clipped_sum(images: Images, feature: Feature, charge: Charge, noise: NoiseSource, batch: int) -> Tensor:
    """Return the exact sum, float64, in which no record has a norm above 1; never to leave the vault without noise.

    Args:
        images: the records, of which a Poisson sample counts where the charge's rate is below 1.
        feature: of one record.
        charge: its rate and cap say how records are sampled.
        noise: draws the sample.
        batch: records at a time; changes nothing.
    """
    total: Tensor | None = None
    members = images
    if charge.rate < 1:
        members = images.take(poisson(noise, len(images), charge.rate, charge.cap).nonzero().flatten())
    empty = len(members) == 0
    # One record that does not count tells what shape the sum over none has.
    for chunk in (images.take(slice(1)) if empty else members).chunks(batch):
        norms = feature.norms(chunk.x, chunk.y).to("cpu", torch.float64)
        weights = torch.where(torch.isfinite(norms) & (not empty), 1 / norms.clamp(min=1), 0)
        # float64: the sum over a large set must not add rounding of its own to the sensitivity.
        part = feature.weighted_sum(chunk.x, chunk.y, weights).cpu()
        total = part.to(torch.float64, copy=True) if total is None else total.add_(part)
    assert total is not None
    return total
