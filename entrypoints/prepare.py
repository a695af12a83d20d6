"""Bring a data set into the data root."""

import click

from dpib.data.catalog import data_root
from dpib.errors import UserError
from dpib.paths import written_path
from dpib.section import Section, parse_yaml, validated
from entrypoints import cli


class Own(Section):
    """How the user's own images are prepared; none: as they were, or 32 pixels in colour."""

    size: int | None
    gray: bool | None


@cli.entry
@click.option("--dataset", required=True, help="A known data set, or a new name for your own images.")
@click.option("--source", default="none", help="Folder or archive with the files; none downloads the official ones.")
@click.option("--verify", default=True, help="Refuse content that differs from the published one.")
@click.option("--size", default="none", help="Your own images: side in pixels, 32 if not given.")
@click.option("--gray", default="none", help="Your own images: turn them gray.")
@click.option("--replace", default=False, help="Write over other images that are prepared under this name.")
def main(dataset: str, source: str, verify: bool, size: str, gray: str, replace: bool, keys: tuple[str, ...]) -> None:
    """Build `<data root>/<dataset>/{train,test}.npz` from official archives or an image folder."""
    from dpib.config import compose
    from dpib.data.own import card_for
    from dpib.pipeline import run_prepare

    given = cli.overrides(keys)
    root = data_root(cli.given(given.get("data_root", "none")))
    place = written_path(source) if cli.given(source) else None
    own = validated(Own, {"size": parse_yaml(size, "size"), "gray": parse_yaml(gray, "gray")}, "prepare")
    if not dataset.endswith((".yaml", ".yml")):
        card_for(dataset, place, root, own.size, own.gray, replace)
    elif own.size is not None or own.gray is not None:
        raise UserError(f"the card {dataset} says size and colour: leave -P size and -P gray out")
    # A preparation judges nothing; a public set has no held-out part and no test images to do it with.
    config, card = compose({"eval.mode": "syn", "yardstick": "none", **given, "dataset": dataset})
    cli.show("prepare", run_prepare(config, card, cli.open_store(), place, verify, replace))


if __name__ == "__main__":
    main()
