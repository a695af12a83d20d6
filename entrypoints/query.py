"""Make the private releases that a method asks for before it pretrains."""

from entrypoints import cli
from entrypoints.launch import relaunched


@cli.entry
def main(keys: tuple[str, ...]) -> None:
    """Query the sensitive images; the run serves every pretraining and training, of any budget that has room for it."""
    from dpib.chain import run_query
    from dpib.config import compose
    from dpib.stages.solving import require_budget

    config, card = compose(cli.overrides(keys))
    if relaunched(config, "entrypoints.query"):
        return
    require_budget(config, card)
    cli.show("query", run_query(config, card, cli.open_store()))


if __name__ == "__main__":
    main()
