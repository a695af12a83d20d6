"""How useful and how faithful a synthetic set is: pure functions, which know nothing of privacy."""
