"""Draw the synthetic set of a training run."""

import click

from dpib.pipeline import continue_from, run_generate
from entrypoints import cli


@cli.entry
@click.option("--train_run", required=True, help="The training run (or main run) whose synthesizer draws.")
def main(train_run: str, keys: tuple[str, ...]) -> None:
    """Generate from the configuration of the training run; `generate.*` may be overridden."""
    store = cli.open_store()
    config, card, run = continue_from(train_run, "train", store, cli.overrides(keys))
    cli.show("generate", run_generate(config, card, store, run))


if __name__ == "__main__":
    main()
