"""Differentially private image synthesis: train, generate, measure and compare."""

__version__ = "0.1.0"
