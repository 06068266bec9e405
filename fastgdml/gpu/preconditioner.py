"""Preconditioner of the iterative solver on a device; the twin of `fastgdml.solvers.preconditioner`.

The low-rank part U is held in double precision: that takes twice the memory of the twin's, and plain matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy.typing as npt

from ..errors import SolverError
from ..kernel import Coordinates
from ..solvers.preconditioner import factor_with_jitter, inverse_roots, not_positive_definite
from ..training_set import TrainingSet
from ..types import Array, IntArray, Progress
from .arrays import to_numpy
from .cholesky import cholesky, cholesky_solve, solve_right
from .kernel import assemble_diagonal, assemble_lower, assemble_rows

# Size of the pieces of the columns that are on the device at once, beside U.
_PIECE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Preconditioner:
    """P^-1 of equation (2) of `fastgdml.solvers.preconditioner`.

    Attributes
    ----------
    U : array, shape (n, k)
        The low-rank part.
    inner : array, shape (k, k)
        Lower Cholesky factor of I + U^T U.
    root : array, shape (M, q, q)
        The blocks of B^(-1/2).
    xp : module
        numpy or cupy.
    """

    U: Any
    inner: Any
    root: Any
    xp: ModuleType

    def __call__(self, r: Array) -> Array:
        """Return P^-1 r, shape (n,), on the host, of r on the host."""
        b = self._scale(self.xp.asarray(r))
        t = cholesky_solve(self.inner, self.U.T @ b, self.xp)
        b -= self.U @ t
        return to_numpy(self._scale(b))

    def _scale(self, r: Any) -> Any:
        return self.xp.matmul(self.root, r.reshape(len(self.root), -1, 1)).ravel()


def memory(n_train: int, n_coord: int, n_columns: int) -> int:
    """Return the bytes of device memory that a preconditioner of `n_columns` columns needs while it is built."""
    n = n_train * n_coord
    piece = 8 * n_coord * n_columns * _points_of_piece(n_train, n_coord, n_columns)
    return 8 * n * n_columns + 4 * 8 * n_columns**2 + 8 * n * n_coord + 4 * piece


def build(
    training: TrainingSet,
    lam: float,
    points: IntArray,
    columns: Sequence[npt.ArrayLike],
    progress: Progress | None = None,
    *,
    xp: ModuleType,
) -> Preconditioner:
    """Build the preconditioner. Parameters as for the twin.

    Raises
    ------
    SolverError
        If the columns are linearly dependent to rounding errors, however much they are regularised.
    """
    n_train, n_coord = training.n_train, training.n_coord
    here = replace(training, x=xp.asarray(training.x), g=xp.asarray(training.g))
    cols = Coordinates.from_lists(columns)
    k = cols.size
    W = assemble_lower(training.part(points), cols, -1.0, xp=xp)
    factor = factor_with_jitter(W, lam, lambda matrix: cholesky(matrix, xp), xp)
    del W

    U = xp.empty((n_train * n_coord, k))
    inner = xp.eye(k)
    roots = xp.empty((n_train, n_coord, n_coord))
    step = _points_of_piece(n_train, n_coord, k)
    for first in range(0, n_train, step):
        piece = range(first, min(first + step, n_train))
        some, its_rows = slice(first, piece.stop), slice(first * n_coord, piece.stop * n_coord)
        L = assemble_rows(here, piece, points, cols, -1.0, xp=xp)
        solve_right(factor, L, xp)
        missed = assemble_diagonal(here.part(some), -1.0, xp=xp)
        parts = xp.ascontiguousarray(L).reshape(len(piece), n_coord, k)
        del L
        roots[some] = inverse_roots(missed - xp.matmul(parts, parts.swapaxes(1, 2)), lam, xp)
        U[its_rows] = xp.matmul(roots[some], parts).reshape(-1, k)
        inner += U[its_rows].T @ U[its_rows]
        if progress is not None:
            progress(piece.stop, n_train)
    inner = inner.T  # symmetric: this is a view in Fortran order
    if not cholesky(inner, xp):
        raise SolverError(not_positive_definite())
    return Preconditioner(U, inner, roots, xp)


def _points_of_piece(n_train: int, n_coord: int, n_columns: int) -> int:
    return min(n_train, max(1, _PIECE_BYTES // (8 * n_coord * n_columns)))
