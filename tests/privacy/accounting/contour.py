"""Epsilon of many Poisson-sampled Gaussians in another way: no grid and no FFT, an integral in the complex plane.

The divergence at epsilon is 1/(2 pi i) times the integral of E[e^(z L)] e^(-z epsilon) / (z (z + 1)) along a line of
constant real part, as for the price of an option (Carr and Madan 1999). Both integrals are trapezoid sums over
analytic functions and exact to many digits, where enough steps have made the sum of losses smooth.
"""

import math

import numpy as np
from scipy.optimize import brentq


def epsilon(rate, sigma, count, delta, swapped=False):
    """Return epsilon at `delta`, the larger one of both directions; `swapped`: a record turns into its opposite."""
    x = np.arange(-14 * sigma - 1, 14 * sigma + 2, min(sigma, 1) / 400)
    present, absent = (np.log1p(rate * np.expm1((2 * mode * x - 1) / (2 * sigma**2))) for mode in (1, -1))
    absent = absent if swapped else 0 * x
    noise = -(x**2) / (2 * sigma**2) + math.log((x[1] - x[0]) / (sigma * math.sqrt(2 * math.pi)))
    loss = present - absent
    ways = [(loss, noise + present)] + ([] if swapped else [(-loss, noise + absent)])
    return max(_epsilon(*way, count, delta) for way in ways)


def _epsilon(loss, log_mass, count, delta):
    def log_moment(t):
        exponents = t * loss + log_mass
        return exponents.max() + math.log(np.exp(exponents - exponents.max()).sum())

    def renyi(t):
        return (count * log_moment(t) + t * math.log(t) - (1 + t) * math.log1p(t) - math.log(delta)) / t

    theta = min(np.geomspace(0.1, 1e4, 200), key=renyi)
    tilted = np.exp(theta * loss + log_mass - log_moment(theta))
    mean = (tilted * loss).sum()
    spread = math.sqrt(count * (tilted * (loss - mean) ** 2).sum())
    step = 2 * math.pi / (60 / theta + 2 * renyi(theta) + 40 * spread)
    terms = []
    while not terms or terms[-1].real > -45:
        terms.append(count * np.log((tilted * np.exp(1j * step * len(terms) * (loss - mean))).sum()))
    line = 1j * step * np.arange(len(terms))

    def log_divergence(epsilon):
        parts = np.exp(np.array(terms) + line * (count * mean - epsilon)) / ((theta + line) * (theta + line + 1))
        total = (parts.real.sum() - parts[0].real / 2) * step / math.pi
        return math.log(total) + count * log_moment(theta) - theta * epsilon

    return brentq(lambda e: log_divergence(e) - math.log(delta), renyi(theta) / 2, renyi(theta), xtol=1e-12)
