"""A Cholesky factor that grows: a point more costs a border of rows, not a new factorisation.

With M = L L^T of the points so far and the matrix of one more, bordered by its rows b and its own block s,

    [ M  b^T ]   [ L    0  ] [ L^T  X  ]
    [ b   s  ] = [ X^T  L' ] [ 0   L'^T ],      L X = b^T,      L' L'^T = s - X^T X,                        (1)

and the inverse of the factor grows by the rows

    [ -L'^-1 X^T L^-1,  L'^-1 ].                                                                             (2)

Both cost O(n^2 q) for a point of q rows and n rows before, O(n^3) in all, as the factorisation at once does. The rows
of each point are kept as they came, nothing is copied when the factor grows: L and L^-1 take n^2 numbers together.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from ..threads import blas_threads, resolve_n_threads
from ..types import Array
from .machine import Factor


class BorderedFactor(Factor):
    """A Cholesky factor and its inverse, of no points at first.

    Parameters
    ----------
    n_threads : int, optional
        Number of threads; all by default.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        self._n_threads = resolve_n_threads(n_threads)
        self._begin = [0]
        # The rows of each point, from the first column to its own diagonal block.
        self._rows: list[Array] = []
        self._inverse: list[Array] = []

    @property
    def order(self) -> int:
        """Number of rows n."""
        return self._begin[-1]

    @property
    def n_points(self) -> int:
        """Number of points."""
        return len(self._rows)

    def append(self, border: Array, block: Array) -> bool:
        """Add a point; equations (1) and (2).

        Parameters
        ----------
        border : ndarray, shape (q, n)
            Rows of the matrix at the columns of the points before.
        block : ndarray, shape (q, q)
            Rows at the columns of the point itself.

        Returns
        -------
        bool
            False, with nothing changed, if the matrix is not positive definite with this point.
        """
        n, q = self.order, len(block)
        with blas_threads(self._n_threads):
            X = self._forward(border.T)
            try:
                own = cholesky(block - X.T @ X, lower=True, check_finite=True)
            except (LinAlgError, ValueError):  # ValueError: a number that is not finite
                return False
            rows, inverse = np.empty((q, n + q)), np.zeros((q, n + q))
            rows[:, :n], rows[:, n:] = X.T, own
            product = inverse[:, :n]
            for i, part in enumerate(self._inverse):
                product[:, : part.shape[1]] += X[self._of(i)].T @ part
            inverse[:, n:] = np.eye(q)
            np.negative(product, out=product)
            inverse = solve_triangular(own, inverse, lower=True, check_finite=False)
        self._rows.append(rows)
        self._inverse.append(np.ascontiguousarray(inverse))
        self._begin.append(n + q)
        return True

    def solve(self, rhs: Array) -> Array:
        """Return the solution of one right-hand side (n,) or of several (n, k)."""
        with blas_threads(self._n_threads):
            left = self._forward(rhs)
            for i in reversed(range(self.n_points)):
                own, rows = self._of(i), self._rows[i]
                part = solve_triangular(rows[:, own], left[own], lower=True, trans="T", check_finite=False)
                left[own] = part
                left[: own.start] -= rows[:, : own.start].T @ part
        return left

    def invert(self) -> Callable[[int, int], Array]:
        """Return a function that gives columns of L^-1; see `Factor.invert`. Here `solve` works on."""

        def columns(first: int, last: int) -> Array:
            part = np.zeros((self.order, last - first))
            for i, rows in enumerate(self._inverse):
                if rows.shape[1] > first:
                    stop = min(last, rows.shape[1])
                    part[self._of(i), : stop - first] = rows[:, first:stop]
            return part

        return columns

    def _of(self, i: int) -> slice:
        return slice(self._begin[i], self._begin[i + 1])

    def _forward(self, rhs: Array) -> Array:
        """Return L^-1 rhs, by substitution: products with L^-1 would lose digits to its condition."""
        X = np.array(rhs, dtype=np.float64, order="C")
        for i, rows in enumerate(self._rows):
            own = self._of(i)
            X[own] -= rows[:, : own.start] @ X[: own.start]
            X[own] = solve_triangular(rows[:, own], X[own], lower=True, check_finite=False)
        return X
