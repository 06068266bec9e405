"""How long the solvers will take: a model of cost, from which follow the choices that are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Steps to a residual of 1e-4 are about this times n / k: 10 for ethanol, 45 to 60 for aspirin.
STEPS = 30.0
STEPS_AT_MOST = 60.0


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second; only the ratios matter for the choices that are made.

    They are fixed, those of two cores with AVX-512, and not measured on the spot: the same task has the same solution
    wherever and whenever it is solved.

    Attributes
    ----------
    blas : float
        Operations of matrix products and factorisations.
    kernels : float
        Operations of products with the matrix-free kernel.
    bytes : float
        Bytes read from memory.
    """

    blas: float = 90e9
    kernels: float = 55e9
    bytes: float = 15e9


def closed_form_seconds(n: int, rates: Rates) -> float:
    """Return the time that the factorisation of a matrix of order n will take."""
    return n**3 / 3 / rates.blas


def expected_steps(n: int, k: int, tol: float, steps: float = STEPS) -> float:
    """Return the number of steps to the tolerance with k of n columns."""
    return steps * n / k * max(np.log10(1 / tol) / 4, 0.25)


def iteration_seconds(n: int, k: int, product: float, rates: Rates, steps: float = STEPS, tol: float = 1e-4) -> float:
    """Return the time that the iterative solver will take with k of n columns; a product K v takes `product` flops."""
    build = (2.0 * n * k**2 + k**3) / rates.blas
    step = product / rates.kernels + (2 * 4.0 * n * k + 2 * 8.0 * k**2) / rates.bytes
    return float(build + expected_steps(n, k, tol, steps) * step)
