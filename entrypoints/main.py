"""Train, generate and evaluate as nested runs under one run, and print a summary."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpib.data.catalog import Card
from entrypoints import cli
from entrypoints.launch import leads, relaunched

if TYPE_CHECKING:
    from dpib.runner import Result
    from dpib.tracking import Store


@cli.entry
@click.option("--pretrain_run", default="none", help="Start from this pretraining run (or main run).")
@click.option("--checkpoint", default="none", help="Or from this checkpoint file of the same network.")
def main(pretrain_run: str, checkpoint: str, keys: tuple[str, ...]) -> None:
    """Run the whole benchmark for one method, data set and epsilon."""
    from dpib.config import compose
    from dpib.pipeline import run_main

    config, card = compose(cli.overrides(keys))
    if relaunched(config, "entrypoints.main"):
        return
    store = cli.open_store()
    result = run_main(config, card, store, cli.start(pretrain_run, checkpoint, store))
    if not leads():
        return
    click.echo(f"\n{config.method} on {card.title}, profile {config.profile}: run {result.run_id}")
    click.echo(summary(result, card, store))


def summary(result: "Result", card: Card, store: "Store") -> str:
    """Return what was spent, how good it is, where the picture is, and how to look at the runs."""
    from dpib.stages.generate import SAMPLE
    from dpib.tracking.view import address

    m = result.metrics
    lines = []
    if "privacy/epsilon" in m:
        parts = [f"{k} {m[f'privacy/epsilon_{k}']:.4g}" for k in ("train", "selection") if f"privacy/epsilon_{k}" in m]
        lines.append(
            f"privacy   epsilon {m['privacy/epsilon']:.4g} ({', '.join(parts)}), delta {m['privacy/delta']:.3g}"
        )
    else:
        lines.append("privacy   NOT private (fixed noise seed)")
    own = [k for k in m if k.startswith("utility/") and k.endswith("/accuracy")]
    if "utility/accuracy_best" in m:
        each = ", ".join(f"{k.split('/')[1]} {m[k]:.1f}" for k in own)
        lines.append(
            f"utility   {each}; best by DP selection {m['utility/accuracy_best']:.1f} % "
            f"of {m['utility/n_test']:.0f} test images"
        )
    for prefix, remark in (
        ("fidelity", ""),
        ("fidelity_random", " (random embedding: not comparable with published FID)"),
    ):
        figures = [k for k in sorted(m) if k.startswith(f"{prefix}/") and "/n_" not in k]
        if figures:
            values = ", ".join(f"{k.split('/')[1]} {m[k]:.4g}" for k in figures)
            counts = f"{m[f'{prefix}/n_synthetic']:.0f} synthetic, {m.get(f'{prefix}/n_real', 0):.0f} real"
            lines.append(f"fidelity  {values} ({counts}){remark}")
    picture = store.fetch(result.run_id, str(SAMPLE))
    lines.append(f"picture   {_near(picture)}")
    experiment = store.experiment(card.name, card.title)
    if cli.is_server(store):
        lines.append(f"runs      {address(store.uri, experiment)}")
    else:
        lines.append(f"runs      make ui, then {address('http://127.0.0.1:5000', experiment)}")
    return "\n".join(lines)


def _near(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    main()
