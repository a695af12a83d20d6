"""Batches of images that are not sensitive, whose content follows from the seed and the step alone."""

import torch
from torch import Tensor

from dpib import seeding
from dpib.diffusion.loss import DenoisingLoss
from dpib.diffusion.settings import LearnSettings
from dpib.distributed import World
from dpib.draws import Draws
from dpib.errors import UserError
from dpib.images import Epochs, Images

_MAGNITUDES = 9


class PublicBatches:
    """One process's part of every batch; a step's batch is the same for any number of processes.

    Args:
        images: public ones, or what was made of private releases.
        how: the batch, and how images are changed.
        null: the first index that is no class.
        seed: with `name`, decides all draws.
        name: of what is learnt.
        world: the processes.

    Raises:
        UserError: when there are fewer images than a batch, or a label beyond `null`.
    """

    def __init__(self, images: Images, how: LearnSettings, null: int, seed: int, name: str, world: World) -> None:
        if len(images) < how.batch:
            raise UserError(f"{name}: {len(images)} images do not fill a batch of {how.batch}: lower pretrain.batch")
        classes = int(images.y.max()) + 1
        if how.cond and classes > null:
            raise UserError(
                f"the public images have {classes} classes, the network {null}: "
                f"set network.label_dim={classes} or pretrain.cond=false"
            )
        labels = images.y if how.cond else torch.full_like(images.y, null)
        self._images, self._how, self._seed, self._name, self._world = Images(images.x, labels), how, seed, name, world
        self._epochs = Epochs(len(images), how.batch, seed, name)

    def rows(self, loss: DenoisingLoss, step: int) -> tuple[Tensor, ...]:
        """Return this process's rows of the step: every size-th record of the batch with its draws."""
        batch = self._images.take(self._epochs.index(step))
        if self._how.augment is not None:
            with seeding.seeded(self._seed, self._name, "augment", step):
                batch = Images(torch.stack([_changed(x, self._how.augment) for x in batch.x]), batch.y)
        if self._how.flip:
            stream = seeding.generator(self._seed, self._name, "flip", step)
            mirrored = torch.rand(len(batch), generator=stream) < 0.5
            batch = Images(torch.where(mirrored.view(-1, 1, 1, 1), batch.x.flip(3), batch.x), batch.y)
        share = torch.arange(self._world.rank, len(batch), self._world.size)
        batch = batch.take(share)
        draws = Draws(seeding.derive(self._seed, self._name, "rows", step), share)
        return tuple(row.flatten(0, 1) for row in loss.rows(batch.x, batch.y, draws))


def _changed(x: Tensor, changes: int) -> Tensor:
    """Return an image uint8 [c, h, w] after some random changes of one random strength (Cubuk et al. 2020)."""
    from torchvision.transforms import v2  # takes seconds to import, and few recipes ask for it

    strength = int(torch.randint(1, _MAGNITUDES + 1, ()))
    changed: Tensor = v2.RandAugment(changes, strength)(x)
    return changed
