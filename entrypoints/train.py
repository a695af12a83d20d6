"""Train a synthesizer within a privacy budget."""

import click

from dpib.config import compose
from dpib.pipeline import Start, require_budget, run_pretrain, run_train
from entrypoints import cli
from entrypoints.launch import relaunched


@cli.entry
@click.option("--pretrain_run", default="none", help="Start from this pretraining run (or main run).")
@click.option("--checkpoint", default="none", help="Or from this checkpoint file of the same network.")
def main(pretrain_run: str, checkpoint: str, keys: tuple[str, ...]) -> None:
    """Train on the sensitive images; with `public` and nothing to start from, pretrain first."""
    config, card = compose(cli.overrides(keys))
    if relaunched(config, "entrypoints.train"):
        return
    require_budget(config, card)
    store = cli.open_store()
    start = cli.start(pretrain_run, checkpoint, store)
    if start is None and config.public is not None:
        start = Start(run_pretrain(config, card, store).run_id)
    cli.show("train", run_train(config, card, store, start))


if __name__ == "__main__":
    main()
