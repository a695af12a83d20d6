"""Attack the mechanisms of a method's configuration with made-up records."""

import sys

import click

from entrypoints import cli


@cli.entry
@click.option("--black_box", default=False, help="Also run the slow black-box test of every release.")
def main(black_box: bool, keys: tuple[str, ...]) -> None:
    """Audit every release that the method plans; end with status 1 if a check failed. Costs no privacy."""
    from dpib.config import compose
    from dpib.pipeline import run_audit
    from dpib.stages.audit import REPORT

    config, card = compose(cli.overrides(keys))
    store = cli.open_store()
    result = run_audit(config, card, store, black_box)
    click.echo(store.fetch(result.run_id, REPORT).read_text(encoding="utf-8"))
    cli.show("audit", result)
    if result.metrics["audit/failed"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
