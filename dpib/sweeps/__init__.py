"""Sweeps that say what they cost, and suites: the only package that imports optuna."""
