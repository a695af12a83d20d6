"""Draw the synthetic set of a training run, or of a pretraining run at no privacy cost."""

import click

from dpib.errors import UserError
from entrypoints import cli
from entrypoints.launch import relaunched


@cli.entry
@click.option("--train_run", default="none", help="The training run (or main run) whose synthesizer draws.")
@click.option("--pretrain_run", default="none", help="Or a pretraining run: a synthesizer of public data alone.")
def main(train_run: str, pretrain_run: str, keys: tuple[str, ...]) -> None:
    """Generate from the configuration of the run; `generate.*` and `sampler.*` may be overridden."""
    from dpib.chain import run_generate
    from dpib.upstream import continue_from

    trained, pretrained = cli.given(train_run), cli.given(pretrain_run)
    if (trained is None) == (pretrained is None):
        raise UserError("give either -P train_run=<run id> or -P pretrain_run=<run id>")
    store = cli.open_store()
    stage = "train" if trained else "pretrain"
    config, card, run = continue_from(trained or pretrained or "", stage, store, cli.overrides(keys))
    if relaunched(config, "entrypoints.generate"):
        return
    cli.show("generate", run_generate(config, card, store, run))


if __name__ == "__main__":
    main()
