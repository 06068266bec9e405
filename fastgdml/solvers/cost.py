"""How long the solvers will take: a model of cost, from which follow the choices that are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Steps to a residual of 1e-4 are about this times n / k, before anything is known: 2 to 60 occur.
STEPS = 5.0
# Shares of the columns that are considered.
SHARES = np.geomspace(1 / 400, 1 / 3, 24)


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second; only the ratios matter for the choices that are made.

    They are fixed, those of two cores with AVX-512, and not measured on the spot: the same task has the same solution
    wherever and whenever it is solved.

    Attributes
    ----------
    factor : float
        Operations of the factorisation of the whole matrix.
    entries : float
        Entries of the kernel matrix that are assembled.
    blas : float
        Operations of the matrix products and factorisations of the preconditioner, a third of them in single precision.
    kernels : float
        Operations of products with the matrix-free kernel.
    bytes : float
        Bytes read from memory.
    element : float
        Bytes of a number of the low-rank part of the preconditioner.
    """

    factor: float = 135e9
    entries: float = 55e6
    blas: float = 112.5e9
    kernels: float = 55e9
    bytes: float = 15e9
    element: float = 2.25


@dataclass(frozen=True)
class Cost:
    """Times of the iterative solver for n unknowns, in seconds of a machine of these rates.

    Attributes
    ----------
    n : int
        Number of unknowns.
    product : float
        Operations of one product K v.
    rates : Rates
        The machine.
    """

    n: int
    product: float
    rates: Rates

    def building(self, k: int) -> float:
        """Return the time for a preconditioner of k columns."""
        return self.n * k / self.rates.entries + (2.0 * self.n * k**2 + 2 / 3 * k**3) / self.rates.blas

    def step(self, k: int) -> float:
        """Return the time for one step with k columns."""
        return (
            self.product / self.rates.kernels
            + (2 * self.rates.element * self.n * k + 2 * 8.0 * k**2) / self.rates.bytes
        )

    def total(self, k: int, tol: float, steps: float = STEPS) -> float:
        """Return the time from the beginning to the end with k columns and ``steps * n / k`` steps to 1e-4."""
        return self.building(k) + expected_steps(self.n, k, tol, steps) * self.step(k)


def closed_form_seconds(n: int, rates: Rates) -> float:
    """Return the time that assembly and factorisation of a matrix of order n will take."""
    return n**2 / 2 / rates.entries + n**3 / 3 / rates.factor


def expected_steps(n: int, k: int, tol: float, steps: float = STEPS) -> float:
    """Return the number of steps to the tolerance with k of n columns."""
    return float(steps * n / k * max(np.log10(1 / tol) / 4, 0.25))


def column_counts(n: int, least: int) -> Iterator[int]:
    """Yield the numbers of columns, of n, that are considered, ascending; at least `least`."""
    yield from sorted({least, *(count for share in SHARES if (count := int(share * n)) >= least)})
