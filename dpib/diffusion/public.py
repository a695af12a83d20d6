"""Batches of public images whose content follows from the seed and the step alone."""

import torch
from torch import Tensor

from dpib import seeding
from dpib.diffusion.loss import DenoisingLoss
from dpib.diffusion.settings import PublicSettings
from dpib.distributed import World
from dpib.errors import UserError
from dpib.images import Images


class PublicBatches:
    """One process's part of every batch; a step's batch is the same for any number of processes.

    Raises:
        UserError: when there are fewer images than a batch, or a label beyond `null`, the first index
            that is no class.
    """

    def __init__(self, images: Images, how: PublicSettings, null: int, seed: int, world: World) -> None:
        if len(images) < how.batch:
            raise UserError(f"{len(images)} public images do not fill a batch of {how.batch}: lower pretrain.batch")
        classes = int(images.y.max()) + 1
        if how.cond and classes > null:
            raise UserError(
                f"the public images have {classes} classes, the network {null}: "
                f"set network.label_dim={classes} or pretrain.cond=false"
            )
        labels = images.y if how.cond else torch.full_like(images.y, null)
        self._images, self._how, self._seed, self._world = Images(images.x, labels), how, seed, world
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def rows(self, loss: DenoisingLoss, step: int) -> tuple[Tensor, ...]:
        """Return this process's rows of the step: every size-th record of the batch with its draws."""
        stream = seeding.generator(self._seed, "pretrain", "rows", step)
        batch = self._images.take(self._index(step))
        if self._how.flip:
            mirrored = torch.rand(len(batch), generator=stream) < 0.5
            batch = Images(torch.where(mirrored.view(-1, 1, 1, 1), batch.x.flip(3), batch.x), batch.y)
        rows = loss.rows(batch.x, batch.y, stream)
        return tuple(row[self._world.rank :: self._world.size] for row in rows)

    def _index(self, step: int) -> Tensor:
        """Return the batch's positions: every epoch is a fresh permutation, whose rest is dropped."""
        n, size = len(self._images), self._how.batch
        epoch, place = divmod(step, n // size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(n, generator=seeding.generator(self._seed, "pretrain", "epoch", epoch))
        return self._order[place * size : (place + 1) * size]
