"""Train the classifiers on real images: the reference without privacy."""

from entrypoints import cli


@cli.entry
def main(keys: tuple[str, ...]) -> None:
    """Run the utility protocol on the real images; the run is marked as not private."""
    from dpib.config import compose
    from dpib.pipeline import run_baseline

    config, card = compose(cli.overrides(keys))
    cli.show("baseline", run_baseline(config, card, cli.open_store()))


if __name__ == "__main__":
    main()
