"""The only code that touches sensitive records: plan, ledger, accountant, noise, vault and statement."""
