"""The low-rank part U of the preconditioner. To apply it is all memory traffic, so its numbers are kept short.

In the order of the factorisation columns of U become ever smaller: the first explain most of the matrix, each later one
only what those before have left. Rounding U to U + E changes the preconditioner by about U E^T, which is to be small
beside the identity (equation (2) of `preconditioner`). So the largest eighth of the columns, norms up to 10^4, are
floats, with rounding errors of 2^-24; the others, norms of 1 to 100, are 16-bit integers times a power of two for each
row, with errors of 2^-16 of the largest element of that row. Conjugate gradients took the same number of steps within
2% as with double precision, with sigma from 10 to 100 and lambda from 1e-15 to 1e-10. What belongs to U (the inner
matrix) is computed from the rounded numbers, and sums are formed in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import lapack
from ..native import _core
from ..types import Array, IntArray

# The share of the columns that are floats, and the least number of these.
_LARGE_SHARE = 1 / 8
_LEAST_LARGE = 128
# Size of the pieces in double precision whose products are summed in `gram`.
_GRAM_BYTES = 16 * 2**20
# Columns are padded to a multiple of the widest vector.
_PADDING = 8


def n_large(n_columns: int) -> int:
    """Return how many of the columns are floats."""
    return max(min(n_columns, _LEAST_LARGE), int(_LARGE_SHARE * n_columns))


def memory(n: int, n_columns: int) -> int:
    """Return the bytes of U, with n rows."""
    first = n_large(n_columns)
    return n * (4 * _padded(first) + 2 * _padded(n_columns - first) + 8)


@dataclass(frozen=True)
class LowRank:
    """U = [large, factor small], its columns in `order`.

    Attributes
    ----------
    order : ndarray of int64, shape (k,)
        The columns, the largest first.
    large : ndarray of float32, shape (n, L)
        The first columns; the last ones of these are padding, zeros.
    small : ndarray of int16, shape (n, S)
        The others, likewise.
    factor : ndarray, shape (n,)
        What the integers of a row are multiplied by, a power of two.
    n_threads : int
        Number of threads.
    """

    order: IntArray
    large: npt.NDArray[np.float32]
    small: npt.NDArray[np.int16]
    factor: Array
    n_threads: int

    @property
    def _first(self) -> int:
        return n_large(len(self.order))

    @classmethod
    def zeros(cls, n: int, order: IntArray, n_threads: int) -> LowRank:
        """Return a U of n rows that are zero, for `set_rows`."""
        first = n_large(len(order))
        large = np.zeros((n, _padded(first)), dtype=np.float32)
        small = np.zeros((n, _padded(len(order) - first)), dtype=np.int16)
        return cls(order, large, small, np.ones(n), n_threads)

    def set_rows(self, rows: slice, L: Array, roots: Array) -> tuple[Array, npt.NDArray[np.float32]]:
        """Set rows to R L, L in Fortran's order, and return their rounded columns: the large, the small ones."""
        exact_large = np.empty((len(L), self._first))
        exact_small = np.empty((len(L), len(self.order) - self._first), dtype=np.float32)
        lapack.split_low_rank(
            L, roots, self.order, self.large[rows], self.small[rows], self.factor[rows], exact_large, exact_small,
            self.n_threads,
        )  # fmt: skip
        return exact_large, exact_small

    def exact(self, rows: IntArray) -> Array:
        """Return some rows, their k columns in `order`, in double precision."""
        others = len(self.order) - self._first
        small = self.small[rows, :others] * self.factor[rows, np.newaxis]
        return np.concatenate([self.large[rows, : self._first].astype(np.float64), small], axis=1)

    def gram(self, points: IntArray, n_coord: int) -> Array:
        """Return the part of U^T U of some points, of `n_coord` rows each: its lower triangle, in Fortran's order."""
        k = len(self.order)
        total = np.zeros((k, k), order="F")
        step = max(1, _GRAM_BYTES // (8 * n_coord * k))
        for first in range(0, len(points), step):
            rows = points[first : first + step, np.newaxis] * n_coord + np.arange(n_coord)
            lapack.add_gram(self.exact(rows.ravel()), total, self.n_threads)
        return total

    def project(self, b: Array) -> Array:
        """Return U^T b, shape (k,), in `order`."""
        t, first = np.empty(len(self.order)), self._first
        t[:first] = _core.low_rank_project(self.large, b, self.n_threads)[:first]
        t[first:] = _core.low_rank_project_shorts(self.small, self.factor, b, self.n_threads)[: len(t) - first]
        return t

    def subtract(self, t: Array, b: Array) -> None:
        """Subtract U t, of t (k,) in `order`, from b."""
        _core.low_rank_subtract(self.large, _with_padding(t[: self._first]), b, self.n_threads)
        _core.low_rank_subtract_shorts(self.small, self.factor, _with_padding(t[self._first :]), b, self.n_threads)


class Gram:
    """U^T U, the lower triangle, as it grows by rows.

    Parameters
    ----------
    total : ndarray, shape (k, k)
        What it is added to, in Fortran's order.
    n_threads : int
        Number of threads.
    """

    def __init__(self, total: Array, n_threads: int) -> None:
        self._total, self._n_threads, self._first = total, n_threads, n_large(len(total))
        # Small columns have norms below 10^3: sums of their products need no more than single precision.
        others = len(total) - self._first
        self._small = np.zeros((others, others), dtype=np.float32, order="F")

    def add(self, exact_large: Array, exact_small: npt.NDArray[np.float32]) -> None:
        """Add that of some rows, from `LowRank.set_rows`."""
        lapack.add_split_gram(exact_large, exact_small, self._total, self._small, self._n_threads)

    def finish(self) -> None:
        """Add what has been summed up to the total."""
        self._total[self._first :, self._first :] += self._small


def _padded(n_columns: int) -> int:
    return -(-n_columns // _PADDING) * _PADDING


def _with_padding(t: Array) -> Array:
    padded = np.zeros(_padded(len(t)))
    padded[: len(t)] = t
    return padded
