"""How long the solvers will take: a model of cost, from which follow the choices that are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Before anything is known, steps to a residual of 1e-4 are taken to be, of m points with a atoms that the permutations
# tell apart,
#
#     6.5 (a / 9)^1.2 (200 / m)^0.45 (n / k)^1.3 max(u, 0.01)^-0.2,   u = (lambda / 1e-10) (sigma / 20)^4.      (1)
#
# For 6.5 (a / 9)^1.2 comes, with u = 1 (by the formula): benzene 1.0 (1.1), propane 2.4 (2.5), ethanol 2.7 to 3.7
# (4.0), acetamide 4.0 (4.8), without their symmetries propane 12 (8.3) and ethanol 6.7 to 11 (6.5), aspirin 17 to 24
# (16), without 13 to 19 (18); with sigma 50 an alkane of 44 atoms 25 to 37 (44). For the function of u: ethanol
# 1.5 for 1e-5 (2.5), 2.4 for 0.006 (2.5), 1.2 for 0.004 (2.5), seven molecules 1.0 to 2.4 for 0.06 (1.7), ethanol 0.33
# and 0.48 for 39 (0.48), 0.21 for 625 (0.28), 0.13 for 1e4 (0.16).
_STEPS = 6.5
_ATOMS_POWER = 1.2
_POINTS_POWER = 0.45
_COLUMNS_POWER = 1.3
_EASE_POWER = 0.2
_LEAST_EASE = 0.01
# Shares of the columns that are considered.
SHARES = np.geomspace(1 / 400, 1 / 3, 24)


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second; only the ratios matter for the choices that are made.

    They are fixed, those of two cores with AVX-512 whose matrix products reach 100 Gflop/s, and not measured on the
    spot: the same task has the same solution wherever and whenever it is solved. With them (27 cases, 1350 to 27,000
    unknowns) preconditioners and steps take the time of the model within 30%.

    Attributes
    ----------
    factor : float
        Operations of the factorisation of the whole matrix, with all else that grows with the third power of its order.
    entries : float
        Entries of the kernel matrix that are assembled, with all else that grows with the second power.
    columns : float
        Entries of the preconditioner's columns that are assembled, and rounded.
    blas : float
        Operations of the matrix products and factorisations of the preconditioner, a third of them in single precision.
    blocks : float
        Operations of the blocks of the preconditioner, q^3 for each point.
    kernels : float
        Operations of products with the matrix-free kernel.
    bytes : float
        Bytes read from memory.
    element : float
        Bytes of a number of the low-rank part of the preconditioner.
    begin, turn : float
        Seconds that a preconditioner and a step take, however small.
    """

    factor: float = 140e9
    entries: float = 110e6
    columns: float = 72e6
    blas: float = 112e9
    blocks: float = 7.5e9
    kernels: float = 66e9
    bytes: float = 28e9
    element: float = 2.25
    begin: float = 4e-3
    turn: float = 1e-4


@dataclass(frozen=True)
class Cost:
    """Times of the iterative solver, in seconds of a machine of these rates.

    Attributes
    ----------
    n_train, n_coord : int
        Number of training points, and of labels of each.
    n_distinct : int
        Number of atoms that the permutations tell apart.
    product : float
        Operations of one product K v.
    rates : Rates
        The machine.
    sig, lam : float
        Length scale and regularisation.
    """

    n_train: int
    n_coord: int
    n_distinct: int
    product: float
    rates: Rates
    sig: float = 20.0
    lam: float = 1e-10

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return self.n_train * self.n_coord

    def building(self, k: int) -> float:
        """Return the time for a preconditioner of k columns."""
        products = (2.0 * self.n * k**2 + 2 / 3 * k**3) / self.rates.blas
        blocks = self.n * self.n_coord**2 / self.rates.blocks
        return self.rates.begin + self.n * k / self.rates.columns + products + blocks

    def step(self, k: int) -> float:
        """Return the time for one step with k columns."""
        moved = 2 * self.rates.element * self.n * k + 2 * 8.0 * (k**2 + self.n * self.n_coord)
        return self.rates.turn + self.product / self.rates.kernels + moved / self.rates.bytes

    def steps(self, k: int, tol: float) -> float:
        """Return the number of steps to the tolerance with k columns that is expected before there are any, by (1)."""
        c = _STEPS * (self.n_distinct / 9) ** _ATOMS_POWER * (200 / self.n_train) ** _POINTS_POWER
        c *= max(self.lam / 1e-10 * (self.sig / 20) ** 4, _LEAST_EASE) ** -_EASE_POWER
        return float(c * (self.n / k) ** _COLUMNS_POWER * max(np.log10(1 / tol) / 4, 0.25))

    def total(self, k: int, tol: float) -> float:
        """Return the time from the beginning to the end that is expected with k columns."""
        return self.building(k) + self.steps(k, tol) * self.step(k)


def closed_form_seconds(n: int, rates: Rates) -> float:
    """Return the time that assembly and factorisation of a matrix of order n will take."""
    return n**2 / 2 / rates.entries + n**3 / 3 / rates.factor


def column_counts(n: int, least: int) -> Iterator[int]:
    """Yield the numbers of columns, of n, that are considered, ascending; at least `least`."""
    yield from sorted({least, *(count for share in SHARES if (count := int(share * n)) >= least)})
