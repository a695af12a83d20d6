"""The smallest epsilon that dpib can prove for published implementations: the figures of docs/differences.md.

    python -m benchmarks.published_epsilon

Each case replaces the published accounting by that of what the published code does; nothing is attacked. Delta is
1 / (n ln n), n the training images without the 5000 held out. About a minute.
"""

import math
from dataclasses import dataclass

import click

from dpib.privacy import accounting
from dpib.privacy.accounting import Accountant
from dpib.privacy.events import Charge

MNIST = 55_000
DELTA = 1 / (MNIST * math.log(MNIST))


@dataclass(frozen=True)
class Case:
    """A published mechanism, what is claimed for it, and what dpib accounts it as."""

    name: str
    claimed: float
    charge: Charge
    accountant: Accountant
    n: int = MNIST

    def epsilon(self) -> float:
        """Return the smallest epsilon that this accountant proves, under zero-out neighbours."""
        return accounting.composed([self.charge.event("train", self.n, "zero_out")], DELTA, self.accountant)


def steps(sigma: float, rate: float, count: int, kind: str = "gaussian") -> Charge:
    """Return a charge of sampled Gaussian steps."""
    if kind == "gaussian":
        return Charge("steps", "gaussian", "", sigma=sigma, rate=rate, count=count)
    # A sample without replacement is priced at twice the largest contribution; these sigmas are relative to that.
    return Charge("steps", "gaussian_wor", "", sigma=2 * sigma, rate=rate, count=count)


def gs_wgan(sigma: float, claimed: float) -> list[Case]:
    """Return the readings of GS-WGAN: 1000 shards, 20 000 steps, 32 images a step, all from one critic."""
    joint = sigma / math.sqrt(32)
    return [
        Case("GS-WGAN, as accounted", claimed, steps(sigma, 1e-3, 20_000), "rdp"),
        Case("GS-WGAN, each image a step of its own", claimed, steps(sigma, 1e-3, 640_000), "pld"),
        Case("GS-WGAN, the 32 images of a step together", claimed, steps(joint, 1e-3, 20_000), "pld"),
        Case(
            "GS-WGAN, the same as sampling a shard without replacement", claimed,
            steps(joint, 1e-3, 20_000, "gaussian_wor"), "rdp", 1000,
        ),
    ]  # fmt: skip


CASES = [
    *gs_wgan(1.0315, 1),
    *gs_wgan(0.4835, 10),
    Case("DP-LoRA, K = 8 draws of a record clipped one by one", 1, steps(14.69 / 8, 1 / 14, 2100), "pld"),
    Case("DP-LoRA, K = 8 draws of a record clipped one by one", 10, steps(1.995 / 8, 1 / 14, 2100), "rdp"),
    Case("DPDM, PDP-Diffusion, DP-LDM-SD, DPGAN with RDP", 1, steps(14.69, 1 / 14, 2100), "pld"),
    Case("DPDM, PDP-Diffusion, DP-LDM-SD, DPGAN with RDP", 10, steps(1.995, 1 / 14, 2100), "pld"),
]


@click.command()
def main() -> None:
    """Print the table as Markdown."""
    click.echo("| mechanism | claimed epsilon | provable epsilon | accountant |")
    click.echo("|---|---|---|---|")
    for case in CASES:
        click.echo(f"| {case.name} | {case.claimed:g} | {case.epsilon():.4g} | {case.accountant} |", nl=True)


if __name__ == "__main__":
    main()
