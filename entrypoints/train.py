"""Train a synthesizer within a privacy budget."""

import click

from entrypoints import cli
from entrypoints.launch import relaunched


@cli.entry
@click.option("--pretrain_run", default="none", help="Start from this pretraining run (or main run).")
@click.option("--checkpoint", default="none", help="Or from this checkpoint file of the same network.")
def main(pretrain_run: str, checkpoint: str, keys: tuple[str, ...]) -> None:
    """Train on the sensitive images; with nothing to start from, first do all that comes before: query, pretraining."""
    from dpib.chain import run_before, run_train
    from dpib.config import compose
    from dpib.config.sense import require_pretraining
    from dpib.stages.solving import require_budget

    config, card = compose(cli.overrides(keys))
    if relaunched(config, "entrypoints.train"):
        return
    begun = (cli.given(pretrain_run) or cli.given(checkpoint)) is not None
    require_pretraining(config, begun)
    require_budget(config, card, begun)
    store = cli.open_store()
    start = cli.start(pretrain_run, checkpoint, store) or run_before(config, card, store).start()
    cli.show("train", run_train(config, card, store, start))


if __name__ == "__main__":
    main()
