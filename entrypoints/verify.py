"""Recompute the epsilon of a finished run, a ledger file or a synthetic set, and compare it with what is stated."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpib.data import npz
from dpib.errors import UserError, absence
from dpib.paths import written_path
from entrypoints import cli

if TYPE_CHECKING:
    from dpib.privacy.ledger import Account


@cli.entry
@click.option("--ledger", required=True, help="A ledger.json, a gen.npz, or the id of a run that has a ledger.")
def main(ledger: str, keys: tuple[str, ...]) -> None:
    """Exit with 1 when the stated epsilon is exceeded, or does not belong to the ledger."""
    from dpib.privacy.verify import verify

    if keys:
        raise UserError(f"verify reads the ledger alone and takes no key {keys[0]!r}")
    account, stated = read(ledger)
    verdict = verify(account, stated)
    click.echo("\n".join(verdict.lines))
    for fault in verdict.faults:
        click.echo(f"WRONG: {fault}")
    if verdict.faults:
        sys.exit(1)
    click.echo(
        "the stated epsilon holds" if stated is not None else "the budget holds; no epsilon was stated beside it"
    )


def read(source: str) -> "tuple[Account, float | None]":
    """Return the account that `source` (file or run id) holds, and the epsilon that is stated with it, if any.

    Raises:
        UserError: when there is no such file or run, or it holds no ledger.
    """
    path = written_path(source)
    if path.suffix == ".npz":
        return _from_npz(path)
    if path.is_file():
        return _from_text(path), None
    if path.suffix == ".json" or path.is_dir():
        raise UserError(f"{path} {absence(path)}: give -P ledger=<ledger.json, gen.npz or run id>")
    from dpib.privacy.ledger import LEDGER
    from dpib.tracking import Store

    store = Store()
    run = store.follow(source)
    return _from_text(store.fetch(run, str(LEDGER))), store.metrics(run).get("privacy/epsilon")


def _from_text(path: Path) -> "Account":
    from dpib.privacy.ledger import Account

    try:
        return Account.parse(path.read_text(encoding="utf-8"))
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from None


def _from_npz(path: Path) -> "tuple[Account, float | None]":
    from dpib.privacy.ledger import Account

    known = npz.headers(path)
    if "statement" not in known:
        raise UserError(f"{path} carries no privacy statement: only the run that made it can say what it cost")
    try:
        statement = json.loads(str(npz.load(path, ("statement",))["statement"]))
        account = Account.parse(json.dumps(statement["ledger"]))
        stated = statement["epsilon"]
        return account, None if stated is None else float(stated)
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(f"{path}: its statement holds no ledger of this format: {error}") from None


if __name__ == "__main__":
    main()
