"""What a search over hyper-parameters costs, by how it is accounted: the published setting, and dpib's own.

    python -m benchmarks.sweep_totals

Each trial is a training of 55,000 images in 150 epochs of expected batch 4096 at delta 1/(n ln n). By RDP alone
trials are calibrated and composed as published; by default dpib calibrates and composes by privacy loss
distributions, and only the best of a random number of trials is accounted by RDP.
"""

import math
from typing import Literal

from dpib.privacy import accounting, calibrate
from dpib.privacy.events import Charge
from dpib.privacy.stopping import Stopping

N, BATCH, EPOCHS = 55_000, 4096, 150
DELTA = 1 / (N * math.log(N))


def totals(epsilon: float, trials: int, accountant: Literal["pld", "rdp"]) -> list[float]:
    """Return epsilon of all trials composed, and of the best of a logarithmic, geometric, Poisson number of them."""
    steps = math.ceil(EPOCHS * N / BATCH)
    free = (Charge("trial", "gaussian", "", rate=BATCH / N, count=steps),)
    (trial,) = calibrate.solve(
        free, scope="train", n=N, relation="zero_out", epsilon=epsilon, delta=DELTA, accountant=accountant
    )
    laws = (Stopping.negative_binomial(trials, 0.0), Stopping.negative_binomial(trials, 1.0), Stopping.poisson(trials))
    best = [Charge("best", "random_stopping", "", base=(trial,), stopping=law) for law in laws]
    event = trial.event("train", N, "zero_out")
    composed = event.model_copy(update={"count": event.count * trials})
    return [
        accounting.spent([composed], DELTA, accountant),
        *(accounting.spent([charge.event("train", N, "zero_out")], DELTA, accountant) for charge in best),
    ]


def main() -> None:
    print(
        "| epsilon of a trial | trials | all composed | logarithmic | geometric | Poisson |\n|---|---|---|---|---|---|"
    )
    for epsilon in (1.0, 10.0):
        for trials in (5, 10, 20, 50):
            both = zip(totals(epsilon, trials, "rdp"), totals(epsilon, trials, "pld"), strict=True)
            cells = " | ".join(f"{rdp:.3g} / {own:.3g}" for rdp, own in both)
            print(f"| {epsilon:g} | {trials} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
