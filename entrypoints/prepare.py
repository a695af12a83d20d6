"""Bring a data set into the data root."""

from pathlib import Path

import click

from dpib.config import compose
from dpib.data.catalog import data_root
from dpib.data.prepare import card_for
from dpib.pipeline import run_prepare
from entrypoints import cli


@cli.entry
@click.option("--dataset", required=True, help="A known data set, or a new name for your own image folder.")
@click.option("--source", default="none", help="Folder or archive with the official files; none downloads them.")
@click.option("--verify", default=True, help="Refuse content that differs from the published one.")
@click.option("--size", default=32, help="Your own images: side in pixels.")
@click.option("--gray", default=False, help="Your own images: turn them gray.")
def main(dataset: str, source: str, verify: bool, size: int, gray: bool, keys: tuple[str, ...]) -> None:
    """Build `<data root>/<dataset>/{train,test}.npz` from official archives or an image folder."""
    given = cli.overrides(keys)
    root = data_root(given.get("data_root"))
    place = Path(source).expanduser() if cli.given(source) else None
    if not dataset.endswith(".yaml"):
        card_for(dataset, place, root, size, gray)
    config, card = compose({**given, "dataset": dataset})
    cli.show("prepare", run_prepare(config, card, cli.open_store(), place, verify))


if __name__ == "__main__":
    main()
