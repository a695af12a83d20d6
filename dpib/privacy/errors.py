"""What the budget, or the rules of the ledger, do not allow."""

from dpib.errors import UserError


class BudgetError(UserError):
    """A charge that the budget, or the rules of the ledger, do not allow; nothing was released."""
