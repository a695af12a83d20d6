"""What holds DP-MERF back: its kernel, its generator or its noise?

    python -m benchmarks.merf_limits --gen path/to/gen.npz --dataset mnist_28

Four sets of images are put against the noise-free mean embedding of the real training images, by the squared MMD of
the recipe's kernel (0: the kernel sees no difference), and against real test images, by the accuracy of the small
ResNet trained on them:

- real images, as many as the others;
- the synthetic set given;
- `free`: images whose pixels were fitted to the noise-free embedding directly, an ideal generator of that size;
- `start`: what those were fitted from (class means plus noise), for comparison.

If the synthetic set is as near to the embedding as real images are and still trains worse classifiers, then the
kernel is blind to what is missing. If it is far and `free` is near and trains better ones, then it is the generator.

The figures are computed without noise on sensitive images: they are for research on public benchmarks only.
"""

from pathlib import Path

import click
import torch
from torch import Tensor

from dpib import seeding
from dpib.config import compose
from dpib.data.synthetic import read_gen
from dpib.images import Images, from_unit, to_unit
from dpib.kernels.embedding import Embedding, embedding
from dpib.kernels.mmd import squared_mmd
from dpib.metrics.utility import accuracy, train_classifier
from dpib.nn import classifiers
from dpib.sensitive import Sensitive

CPU = torch.device("cpu")


def free_images(features: Embedding, means: Tensor, start: Images, steps: int) -> Images:
    """Return images fitted to `means` pixel by pixel, from `start`."""
    logits = to_unit(start.x).clamp(0.02, 0.98).logit().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / steps)
        optimizer.zero_grad()
        squared_mmd(means, features.rows(logits.sigmoid()), start.y).backward()
        optimizer.step()
    return Images(from_unit(logits.sigmoid()), start.y)


def noisy_means(real: Images, classes: int, n: int, stream: torch.Generator) -> Images:
    """Return n images, balanced over the classes: their class's mean image plus pixel noise."""
    labels = torch.arange(n) % classes
    means = torch.stack([to_unit(real.x[real.y == c]).mean(0) for c in range(classes)])
    return Images(from_unit(means[labels] + 0.2 * torch.randn(n, *real.shape, generator=stream)), labels)


@click.command()
@click.option("--gen", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--dataset", default="mnist_28")
@click.option("--n", default=4000, help="Images in each set.")
@click.option("--steps", default=400, help="Steps of the free images.")
def main(gen: Path, dataset: str, n: int, steps: int) -> None:
    """Print the table."""
    config, card = compose({"method": "dp-merf", "dataset": dataset, "profile": "fast"})
    train, val = Sensitive(config, card).baseline()
    test = val  # held-out images of the training set: never in `train`, never in the embedding
    classes = len(card.classes)
    stream = seeding.generator(config.seed, "train", "frequencies")
    features = embedding(config.recipe.features, card.shape, classes, stream, CPU)  # type: ignore[attr-defined]
    total = sum(features.weighted_sum(c.x, c.y, torch.ones(len(c))).double() for c in train.chunks(1000))
    means = features.class_means(torch.as_tensor(total))[0].float()
    order = seeding.generator(0, "merf limits")
    start = noisy_means(train, classes, n, order)
    synthetic, _ = read_gen(gen, card)
    sets = {
        "real": train.take(torch.randperm(len(train), generator=order)[:n]),
        "synthetic": synthetic.take(torch.randperm(len(synthetic), generator=order)[:n]),
        "free": free_images(features, means, start, steps),
        "start": start,
    }
    print(f"| images ({n} of each) | squared MMD, all classes | ResNet accuracy, % |\n|---|---|---|")
    for name, images in sets.items():
        with torch.no_grad():
            distance = float(squared_mmd(means, features.rows(to_unit(images.x)), images.y))
        with seeding.seeded(0, "merf limits", "resnet"):
            network = classifiers.build(config.eval.classifiers, card.shape[0], classes)["resnet"]
        schedule = config.eval.schedule.model_copy(update={"epochs": 15})
        *_, last = train_classifier(network, images, schedule, 0, name, CPU)
        print(f"| {name} | {distance:.5f} | {accuracy(last.predict(test.x) == test.y):.1f} |", flush=True)


if __name__ == "__main__":
    main()
