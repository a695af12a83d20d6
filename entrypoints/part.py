"""Fit a network that methods share to public images."""

import click

from entrypoints import cli
from entrypoints.launch import relaunched


@cli.entry
@click.option("--part", required=True, help="The part's name in the method's configuration, e.g. semantics.")
def main(part: str, keys: tuple[str, ...]) -> None:
    """Fit a part to `public`; the run serves every method and data set of the same shape."""
    from dpib.chain import run_part
    from dpib.config import compose

    config, card = compose(cli.overrides(keys))
    if relaunched(config, "entrypoints.part"):
        return
    cli.show(f"part {part}", run_part(part, config, card, cli.open_store()))


if __name__ == "__main__":
    main()
