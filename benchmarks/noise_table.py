"""How much noise tight accounting saves at equal epsilon: the noise multiplier by each accountant.

    python -m benchmarks.noise_table

The settings are DP-SGD runs of the published benchmark: n images, batches of about 4096 (a rate of one over the
number of batches in an epoch), some number of epochs. `saved` is the noise that privacy loss distributions need
less than RDP; `true epsilon` is what the noise that RDP asks for costs in truth.
"""

import math
import time

import click

from dpib.privacy import accounting, calibrate
from dpib.privacy.accounting import Accountant
from dpib.privacy.events import Charge

SETTINGS = [
    (60_000, 150, 1e-5, 1.0),
    (60_000, 150, 1e-5, 10.0),
    (60_000, 150, None, 1.0),
    (60_000, 150, None, 10.0),
    (55_000, 150, 1e-5, 1.0),
    (55_000, 150, 1e-5, 10.0),
    (45_000, 150, 1e-5, 1.0),
    (45_000, 150, 1e-5, 10.0),
    (60_000, 50, 1e-5, 0.2),
    (60_000, 50, None, 0.2),
]
"""Images, epochs, delta (None: 1 / (n ln n)), epsilon."""


def calibrated(n: int, epochs: int, delta: float, epsilon: float, accountant: Accountant) -> tuple[Charge, float]:
    """Return the calibrated charge and the CPU seconds that it took."""
    batches = math.ceil(n / 4096)
    plan = [Charge("steps", "gaussian", "", rate=1 / batches, count=epochs * batches)]
    start = time.process_time()
    solved = calibrate.solve(
        plan, scope="train", n=n, relation="zero_out", epsilon=epsilon, delta=delta, accountant=accountant
    )
    return solved[0], time.process_time() - start


@click.command()
def main() -> None:
    """Print the table as Markdown."""
    click.echo("| n | epochs | delta | epsilon | RDP | PRV | PLD | saved | true epsilon of RDP's | PLD, CPU s |")
    click.echo("|---|---|---|---|---|---|---|---|---|---|")
    for n, epochs, chosen, epsilon in SETTINGS:
        delta = chosen or 1 / (n * math.log(n))
        rdp, prv, pld = (calibrated(n, epochs, delta, epsilon, a) for a in ("rdp", "prv", "pld"))
        loose, tight = rdp[0].sigma, pld[0].sigma
        assert loose is not None
        assert tight is not None
        true = accounting.composed([rdp[0].event("train", n, "zero_out")], delta)
        click.echo(
            f"| {n} | {epochs} | {delta:.3g} | {epsilon:g} | {loose:.4g} | {prv[0].sigma:.4g} | {tight:.4g} "
            f"| {1 - tight / loose:.1%} | {true:.3f} | {pld[1]:.1f} |"
        )


if __name__ == "__main__":
    main()
