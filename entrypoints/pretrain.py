"""Pretrain a synthesizer on public images."""

from entrypoints import cli
from entrypoints.launch import relaunched


@cli.entry
def main(keys: tuple[str, ...]) -> None:
    """Pretrain on `public` and on what a query released; the run serves every later training with the same network."""
    from dpib.chain import run_pretrain
    from dpib.config import compose

    config, card = compose(cli.overrides(keys))
    if relaunched(config, "entrypoints.pretrain"):
        return
    cli.show("pretrain", run_pretrain(config, card, cli.open_store()))


if __name__ == "__main__":
    main()
