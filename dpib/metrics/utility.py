"""Utility: classifiers trained on synthetic images, of whose epochs one is chosen elsewhere."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from dpib import seeding
from dpib.images import Images
from dpib.metrics.schedule import Schedule
from dpib.nn.ema import MovingAverage
from dpib.precision import passes


@dataclass(frozen=True)
class Epoch:
    """The averaged classifier after one epoch; both it and `predict` hold good until the next is asked for."""

    number: int
    loss: float
    network: nn.Module
    predict: Callable[[Tensor], Tensor]


def train_classifier(
    network: nn.Module,
    images: Images,
    schedule: Schedule,
    seed: int,
    name: str,
    device: torch.device,
    lower: bool = False,
) -> Iterator[Epoch]:
    """Train `network` on `images` from scratch and yield every epoch.

    Args:
        network: maps float [n, c, h, w] in [-1, 1] to logits; trained in place.
        images: the synthetic set.
        schedule: optimizer, learning rate, epochs, batch and averaging.
        seed: of the order of the batches, of augmentation and of dropout.
        name: for the progress bar and the seed.
        device: where it is trained.
        lower: passes are made in bfloat16.

    Raises:
        ValueError: when the images do not fill one batch.
    """
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = MovingAverage(network, schedule.ema)
    order = seeding.generator(seed, name, "batches")
    changes = seeding.generator(seed, name, "augmentation")
    per_epoch = len(images) // schedule.batch
    if per_epoch == 0:
        raise ValueError(f"{len(images)} synthetic images do not fill one batch of {schedule.batch}")
    optimizer, scheduler = _optimizer(network, schedule, per_epoch)
    bar = tqdm(total=schedule.epochs * per_epoch, desc=name, disable=None, leave=False)
    for number in range(schedule.epochs):
        network.train()
        total = torch.zeros((), device=device)
        permutation = torch.randperm(len(images), generator=order)
        with seeding.seeded(seed, name, "dropout", number):
            for index in permutation[: per_epoch * schedule.batch].split(schedule.batch):
                batch = images.take(index)
                x = augmented(batch.x, schedule, changes)
                with passes(lower, device):
                    scores = network(_scaled(x, device))
                loss = F.cross_entropy(scores.float(), batch.y.to(device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                scheduler.step()
                average.update(network)
                total += loss.detach()
                bar.update()
        yield Epoch(number, float(total) / per_epoch, average.network, predictor(average.network, device, lower))
    bar.close()


def accuracy(correct: Tensor) -> float:
    """Return the percentage of true values in a boolean tensor."""
    return 100 * float(correct.double().mean())


def augmented(x: Tensor, schedule: Schedule, generator: torch.Generator) -> Tensor:
    """Return uint8 [n, c, h, w] randomly shifted (black comes in from the border) and mirrored, image by image."""
    n, _, h, w = x.shape
    if schedule.shift:
        padded = F.pad(x, (schedule.shift,) * 4)
        move = torch.randint(0, 2 * schedule.shift + 1, (2, n, 1), generator=generator)
        rows, columns = move[0] + torch.arange(h), move[1] + torch.arange(w)
        x = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if schedule.flip:
        turned = torch.rand(n, generator=generator) < 0.5
        x = torch.where(turned[:, None, None, None], x.flip(3), x)
    return x


def predictor(network: nn.Module, device: torch.device, lower: bool = False) -> Callable[[Tensor], Tensor]:
    """Return a function from uint8 images to predicted labels by `network`, which is in evaluation mode."""
    # On a CPU more images at a time leave the cache, and their activations are given back to the system each time.
    size = 1000 if device.type == "cuda" else 100

    @torch.inference_mode()
    def predict(x: Tensor) -> Tensor:
        with passes(lower, device):
            return torch.cat([network(_scaled(piece, device)).argmax(1).cpu() for piece in x.split(size)])

    return predict


def _scaled(x: Tensor, device: torch.device) -> Tensor:
    return (x.to(device).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _optimizer(
    network: nn.Module, schedule: Schedule, per_epoch: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer: torch.optim.Optimizer
    if schedule.optimizer == "adam":
        optimizer = torch.optim.Adam(network.parameters(), schedule.lr, weight_decay=schedule.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            network.parameters(), schedule.lr, schedule.momentum, weight_decay=schedule.weight_decay
        )
    if schedule.one_cycle:
        steps = schedule.epochs * per_epoch
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.lr, total_steps=steps)
    every = schedule.decay_every * per_epoch
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, every, schedule.decay)
