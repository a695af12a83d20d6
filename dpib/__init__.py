"""Differentially private image synthesis: train, generate, measure and compare."""

import os

# Read when torch is loaded. A thread that spins while it waits for another takes the processor from it: on a machine
# that is busy, training took four times the time, and six times the processor's.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
