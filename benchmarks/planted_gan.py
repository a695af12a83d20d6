"""Faults of a GAN, each as the pieces that it replaces: the pairs, how they are clipped, what the generator sees."""

import torch
from torch import Tensor, nn

from benchmarks.planted import Patch
from benchmarks.planted_clipping import strategy
from dpib.draws import Draws
from dpib.images import to_unit
from dpib.methods.gan import Gan, PairLoss
from dpib.privacy.per_record import vmap
from dpib.privacy.per_record.base import RecordLoss, Rows
from dpib.privacy.vault import Vault
from dpib.synthesizer import Log


def drawn_together() -> list[Patch]:
    sound = PairLoss.rows

    def faulty(self: PairLoss, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        # As batch normalisation does: every generated image depends on how many others are drawn beside it.
        images, labels = sound(self, x, y, draws)
        images[:, 0, 1] -= images[:, 0, 1].mean(0)
        return images, labels

    return [(PairLoss, "rows", faulty)]


def halves_clipped_apart() -> list[Patch]:
    sound, terms = vmap.clipped_sum, [0, 1]

    def per_row(self: PairLoss, model: nn.Module, *rows: Tensor) -> Tensor:
        images, labels = rows
        real, drawn = model(images.flatten(0, 1), labels.flatten()).view(-1, 2).unbind(1)
        return sum((torch.relu(1 - real), torch.relu(1 + drawn))[term] for term in terms)  # type: ignore[return-value]

    def faulty(m: nn.Module, loss: RecordLoss, rows: Rows, clip: float) -> list[Tensor]:
        sums = []
        for term in (0, 1):
            terms[:] = [term]
            sums.append(sound(m, loss, rows, clip))
        terms[:] = [0, 1]
        return [a + b for a, b in zip(*sums, strict=True)]

    return [(PairLoss, "per_row", per_row), *strategy(faulty)]


def generator_sees_the_images() -> list[Patch]:
    sound, move = Gan.train, Gan._move

    def train(self: Gan, vault: Vault, log: Log) -> None:
        self.seen = to_unit(vault._images.x).mean(0)  # type: ignore[attr-defined]
        sound(self, vault, log)

    def faulty(self: Gan, optimizer: torch.optim.Optimizer, name: str, step: int) -> None:
        move(self, optimizer, name, step)
        with torch.no_grad():
            for parameter in self.generator.parameters():
                parameter.add_(1e-3 * self.seen.mean())  # type: ignore[attr-defined]

    return [(Gan, "train", train), (Gan, "_move", faulty)]
