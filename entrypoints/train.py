"""Train a synthesizer within a privacy budget."""

import click

from dpib.config import compose
from dpib.pipeline import run_pretrain, run_train
from entrypoints import cli


@cli.entry
@click.option("--pretrain_run", default="none", help="Start from this pretraining run.")
def main(pretrain_run: str, keys: tuple[str, ...]) -> None:
    """Train on the sensitive images; with `public` and no pretraining run, pretrain first."""
    config, card = compose(cli.overrides(keys))
    store = cli.open_store()
    run = cli.given(pretrain_run)
    if run is not None:
        run = store.follow(run)
    elif config.public is not None:
        run = run_pretrain(config, card, store).run_id
    cli.show("train", run_train(config, card, store, run))


if __name__ == "__main__":
    main()
