"""Does a synthetic set obey its labels? Asks a classifier that was trained on real images.

    python -m benchmarks.label_agreement --gen path/to/gen.npz --dataset mnist_28

Prints, by class, the share of synthetic images that the classifier puts into the class they were drawn for, and
beside it the same share of held-out real images, which is the most that can be expected. Chance is one over the
number of classes.

The classifier sees sensitive images without noise: this is for research on public benchmarks only.
"""

from pathlib import Path

import click
import torch
from torch import Tensor

from dpib import seeding
from dpib.config import compose
from dpib.data.synthetic import read_gen
from dpib.images import Images
from dpib.metrics.schedule import Schedule
from dpib.metrics.utility import accuracy, train_classifier
from dpib.nn import classifiers
from dpib.sensitive import Sensitive

CPU = torch.device("cpu")


def agreement(network: torch.nn.Module, real: Images, asked: list[Images], schedule: Schedule) -> list[Tensor]:
    """Train `network` on `real` and return, for each of `asked`, which labels it confirms: bool [n]."""
    *_, last = train_classifier(network, real, schedule, 0, "label agreement", CPU)
    return [last.predict(images.x) == images.y for images in asked]


@click.command()
@click.option("--gen", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--dataset", default="mnist_28")
@click.option("--profile", default="fast", help="Whose ResNet and schedule are used.")
@click.option("--epochs", default=3)
def main(gen: Path, dataset: str, profile: str, epochs: int) -> None:
    """Print the table."""
    config, card = compose({"method": "dpdm", "dataset": dataset, "profile": profile})
    train, held_out = Sensitive(config, card).baseline()
    synthetic, _ = read_gen(gen, card)
    with seeding.seeded(0, "label agreement"):
        network = classifiers.build(config.eval.classifiers, card.shape[0], len(card.classes))["resnet"]
    schedule = config.eval.schedule.model_copy(update={"epochs": epochs})
    confirmed = agreement(network, train, [synthetic, held_out], schedule)
    print("| class | synthetic, % | real, % |\n|---|---|---|")
    for label, name in enumerate(card.classes):
        shares = [
            accuracy(yes[images.y == label]) for yes, images in zip(confirmed, (synthetic, held_out), strict=True)
        ]
        print(f"| {name} | {shares[0]:.1f} | {shares[1]:.1f} |")
    print(f"| all | {accuracy(confirmed[0]):.1f} | {accuracy(confirmed[1]):.1f} |")


if __name__ == "__main__":
    main()
