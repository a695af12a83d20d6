"""Epsilon of composed events: privacy loss distributions by default, Renyi and PRV accounting beside them."""

from dpib.privacy.accounting.total import Accountant, Total, by_scope, composed, spent, totals

__all__ = ["Accountant", "Total", "by_scope", "composed", "spent", "totals"]
