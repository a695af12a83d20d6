"""What the ledger that came with a synthetic set says of the sensitive images at hand."""

import json
from pathlib import Path

from dpib.errors import UserError
from dpib.privacy.ledger import Account
from dpib.privacy.lineage import about, inherit
from dpib.sensitive import Sensitive


def stated(statement: dict[str, object] | None, sensitive: Sensitive, gen: Path) -> tuple[Account, bool]:
    """Return the account that judging a synthetic set begins with, and whether it says what making the set cost.

    Trainings on these images, or some of them, under other names count, where this machine knows of that. A set that
    says nothing of these images gets an account in which nothing is spent; what it says of others stays beside that.

    Args:
        statement: what came with the set, or None.
        sensitive: the images that judge it.
        gen: the file of the set, for messages.

    Raises:
        UserError: when the statement's ledger is malformed, or holds ledgers of these images that do not add up.
    """
    fresh = sensitive.account()
    if statement is None or "ledger" not in statement:
        return fresh, False
    try:
        account = Account.parse(json.dumps(statement["ledger"]))
        found = about(account, fresh.dataset, sensitive.touches)
        if found is None:
            return inherit(account, fresh), False
        # What the maker of the set says of his own split holds; what is put together here is compared here.
        return sensitive.apart(found) if len(found.others) < len(account.others) else found, True
    except UserError as error:
        raise UserError(f"{gen}: {error}") from None
