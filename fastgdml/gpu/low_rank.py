"""The low-rank part of the preconditioner on one device, in single precision; the twin of src/low_rank.c.

To apply it is all memory traffic. Its sums are formed in double precision, by the kernels of cuda/low_rank.cu.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from .kernel import load_cuda

# As in low_rank.cu: threads of a block, and rows of a block of `subtract`.
_THREADS = 256
_ROWS = 32
# Rows whose sum one thread forms: few enough that all of a device is busy, and many beside the sums that are left.
_STRIP = 1024
# Rows start at a multiple of so many numbers, 128 bytes: what a warp reads at once.
_ALIGNMENT = 32
# Rows that NumPy converts to double precision at once.
_NUMPY_ROWS = 4096
# Size of the pieces in double precision whose products are summed in `gram`.
_GRAM_BYTES = 256 * 2**20


class LowRank:
    """U (n, k) in float32, on the current device, which must be that in all calls.

    Parameters
    ----------
    n_rows, n_columns : int
        n and k.
    xp : module
        numpy or cupy.
    """

    def __init__(self, n_rows: int, n_columns: int, xp: ModuleType) -> None:
        self.xp, self._shape = xp, (n_rows, n_columns)
        self._u = xp.empty((n_rows, _stride(n_columns)), dtype=xp.float32)
        if xp is not np:
            self._project, self._subtract = (load_cuda("low_rank", xp, name) for name in ("project", "subtract"))

    @staticmethod
    def memory(n_rows: int, n_columns: int) -> int:
        """Return the bytes that it takes."""
        return 4 * n_rows * _stride(n_columns)

    def set_rows(self, first: int, rows: Any) -> Any:
        """Take rows (m, k), from number `first` on; return them as they were rounded, in double precision."""
        rounded = self._u[first : first + len(rows), : self._shape[1]]
        rounded[...] = rows
        return rounded.astype(self.xp.float64)

    def gram(self, points: Any, n_coord: int) -> Any:
        """Return the part of U^T U (k, k) of some points, of `n_coord` rows each."""
        xp, k = self.xp, self._shape[1]
        total, step = xp.zeros((k, k)), max(1, _GRAM_BYTES // (8 * n_coord * k))
        for first in range(0, len(points), step):
            rows = (points[first : first + step, None] * n_coord + xp.arange(n_coord)).ravel()
            some = self._u[rows, :k].astype(xp.float64)
            total += some.T @ some
        return total

    def project(self, b: Any) -> Any:
        """Return U^T b, shape (k,), of b (n,)."""
        xp, (n_rows, n_columns) = self.xp, self._shape
        if xp is np:
            parts = range(0, n_rows, _NUMPY_ROWS)
            return sum(self._piece(first).T @ b[first : first + _NUMPY_ROWS] for first in parts)
        n_strips = -(-n_rows // _STRIP)
        partial = xp.empty((n_strips, n_columns))
        grid = (-(-n_columns // _THREADS), n_strips)
        sizes = (np.int64(n_rows), np.int32(n_columns), np.int32(self._u.shape[1]), np.int32(_STRIP))
        self._project(grid, (_THREADS,), (self._u, b, partial, *sizes))
        return partial.sum(axis=0)

    def subtract(self, t: Any, b: Any) -> None:
        """Subtract U t, of t (k,), from b (n,)."""
        xp, (n_rows, n_columns) = self.xp, self._shape
        if xp is np:
            for first in range(0, n_rows, _NUMPY_ROWS):
                b[first : first + _NUMPY_ROWS] -= self._piece(first) @ t
            return
        sizes = (np.int64(n_rows), np.int32(n_columns), np.int32(self._u.shape[1]))
        self._subtract((-(-n_rows // _ROWS),), (_THREADS,), (self._u, t, b, *sizes))

    def _piece(self, first: int) -> Any:
        return self._u[first : first + _NUMPY_ROWS, : self._shape[1]].astype(np.float64)


def _stride(n_columns: int) -> int:
    return -(-n_columns // _ALIGNMENT) * _ALIGNMENT
