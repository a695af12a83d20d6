"""From tracked runs to tables and figures: pure functions over one tidy frame."""
