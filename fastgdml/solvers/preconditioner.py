"""Preconditioner of the iterative solver: a low-rank part, and per training point what the low-rank part misses.

With k columns C of the positive definite matrix A = -K, those of some training points (inducing points), and W their
rows of the same points, the Nystrom approximation is L L^T with L = C W^(-T/2). To it is added, for each training point
i, the block D_i = A_ii - (L L^T)_ii (the partially independent conditional, PITC, of Gaussian processes):

    P = L L^T + B,    B = blockdiag_i(D_i + s_i I)                                                             (1)
    P^-1 = R^T [I - U (I + U^T U)^-1 U^T] R,    R^T R = B^-1,    U = R L      (Woodbury)                       (2)

with lower triangles R_i. Blocks cost nothing beside L and save most of the steps that L alone would need. s_i is lam
and a small share of the norm of D_i: below it are motions that the forces do not see, and rounding errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import lapack
from ..errors import SolverError
from ..kernel import Coordinates, assemble_rows, assemble_selected
from ..threads import blas_threads, resolve_n_threads
from ..training_set import TrainingSet
from ..types import Array, IntArray, Progress
from . import low_rank
from .low_rank import Gram, LowRank

# The share of its Frobenius norm that a block is shifted by: as many steps as if smaller eigenvalues alone were raised.
BLOCK_SHIFT = 5e-3
# First jitter on W, relative to its diagonal; raised tenfold until W has a Cholesky factor.
_JITTER = 1e-14
_JITTER_TRIES = 8
# A column whose diagonal element is below this share of the mean is zero.
_ABSENT = 1e-24
# Size of the pieces of C that are in memory at once.
_PIECE_BYTES = 64 * 2**20
# Training points of a piece: a multiple of this, the widest vector of the assembly.
_LEAST_POINTS = 8
# Training points whose rows show which columns of U are large.
_SAMPLE = 8


@dataclass(frozen=True)
class Rows:
    """The rows of some training points, in their order.

    Attributes
    ----------
    U : LowRank
        The low-rank part.
    root : ndarray, shape (m, q, q)
        The triangles R.
    """

    U: LowRank
    root: Array

    def project(self, r: Array) -> tuple[Array, Array]:
        """Return R r and U^T R r, shapes (m q,) and (k,), of these rows of r."""
        b = self.scale(r)
        return b, self.U.project(b)

    def subtract(self, t: Array, b: Array) -> Array:
        """Return R^T (b - U t), shape (m q,), for t of shape (k,); b is overwritten."""
        self.U.subtract(t, b)
        return lapack.multiply_triangles(self.root, b, True, self.U.n_threads)

    def scale(self, r: Array) -> Array:
        """Return R r."""
        return lapack.multiply_triangles(self.root, r, False, self.U.n_threads)


@dataclass(frozen=True)
class Preconditioner:
    """P^-1 of equation (2).

    Attributes
    ----------
    rows : Rows
        The rows of all training points.
    inner : ndarray, shape (k, k)
        Lower Cholesky factor of I + U^T U.
    """

    rows: Rows
    inner: Array

    def __call__(self, r: Array) -> Array:
        """Return P^-1 r, shape (n,)."""
        b, t = self.rows.project(r)
        return self.rows.subtract(lapack.solve_cholesky(self.inner, t, self.rows.U.n_threads), b)

    def without(self, points: IntArray) -> Preconditioner:
        """See `machine.Preconditioner.without`: (2) of the rows that are left, with I + U^T U less their part."""
        n_threads = self.rows.U.n_threads
        with blas_threads(1, n_threads):
            inner = np.zeros_like(self.inner)
            lapack.add_gram(np.triu(self.inner.T), inner, n_threads)
            inner -= self.rows.U.gram(points, self.rows.root.shape[1])
        return Preconditioner(self.rows, factor_inner(inner, n_threads))


@dataclass(frozen=True)
class Inducing:
    """The inducing points of a preconditioner, and the factor of their part of the kernel matrix.

    Attributes
    ----------
    points : ndarray of int, shape (m,)
        The points, ascending.
    cols : Coordinates
        Their coordinates that are taken, k in all.
    factor : ndarray, shape (k, k)
        Lower Cholesky factor of W.
    order : ndarray of int64, shape (k,)
        The columns of U, the largest first, which a few points show: also of U^T U and of the inner matrix.
    """

    points: IntArray
    cols: Coordinates
    factor: Array
    order: IntArray

    @classmethod
    def of(
        cls,
        training: TrainingSet,
        lam: float,
        points: IntArray,
        columns: Sequence[npt.ArrayLike],
        n_threads: int | None = None,
    ) -> Inducing:
        """Assemble W and factor it; parameters and errors as of `build`."""
        cols, n_threads = Coordinates.from_lists(columns), resolve_n_threads(n_threads)
        W = -assemble_selected(training.part(points), cols, n_threads)
        with blas_threads(1, n_threads):  # in each thread of ours
            factor = factor_with_jitter(W, lam, lambda matrix: lapack.cholesky_dense(matrix, n_threads) == 0)
            inducing = cls(points, cols, factor, np.arange(cols.size))
            if low_rank.n_large(cols.size) == cols.size:
                return inducing
            sample = range(min(_SAMPLE, training.n_train))
            L, roots = inducing.explain(training, lam, sample, n_threads)
            U = np.matmul(roots, L.reshape(len(sample), training.n_coord, -1))
        return replace(inducing, order=np.argsort(-np.square(U).sum(axis=(0, 1)), kind="stable"))

    def explain(self, training: TrainingSet, lam: float, piece: range, n_threads: int) -> tuple[Array, Array]:
        """Return the rows of L of some training points, in Fortran's order, and their triangles R.

        BLAS must be limited to one thread.
        """
        L = assemble_rows(training, piece, self.points, self.cols, n_threads)
        L *= -1.0
        lapack.solve_triangular_right(self.factor, L, n_threads)
        blocks = _diagonal_blocks(training.part(slice(piece.start, piece.stop)), n_threads)
        blocks -= lapack.explained_blocks(L, training.n_coord, n_threads)
        roots, failed = lapack.inverse_roots(blocks, lam, BLOCK_SHIFT, n_threads)
        if failed >= 0:
            raise SolverError(not_positive_definite())
        return L, roots


def pieces_memory(n_train: int, n_coord: int, n_columns: int) -> int:
    """Return the bytes of the pieces of C that there are while rows are built, up to three at once."""
    return 3 * 8 * min(n_train, _points_of_piece(n_coord, n_columns)) * n_coord * n_columns


def _points_of_piece(n_coord: int, n_columns: int) -> int:
    return max(_LEAST_POINTS, _PIECE_BYTES // (8 * n_coord * n_columns) // _LEAST_POINTS * _LEAST_POINTS)


def memory(n_train: int, n_coord: int, n_columns: int) -> int:
    """Return the bytes that a preconditioner of `n_columns` columns needs while it is built."""
    n = n_train * n_coord
    fixed = low_rank.memory(n, n_columns) + 3 * 8 * n_columns**2 + 8 * n * n_coord
    return fixed + pieces_memory(n_train, n_coord, n_columns)


def build(
    training: TrainingSet,
    lam: float,
    points: IntArray,
    columns: Sequence[npt.ArrayLike],
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Preconditioner:
    """Build the preconditioner.

    Parameters
    ----------
    training : TrainingSet
        What the kernel matrix is made of.
    lam : float
        Regularisation.
    points : ndarray of int, shape (m,)
        The inducing points, ascending.
    columns : sequence of array_like of int
        For each of them, the coordinates to take; those that rigid motions make redundant should be left out.
    n_threads : int, optional
        Number of threads; all by default.
    progress : callable, optional
        Called with (done, total) training points.

    Returns
    -------
    Preconditioner

    Raises
    ------
    SolverError
        If the columns are linearly dependent to rounding errors, however much they are regularised.
    """
    n_threads = resolve_n_threads(n_threads)
    inducing = Inducing.of(training, lam, points, columns, n_threads)
    inner = np.zeros((inducing.cols.size, inducing.cols.size), order="F")
    np.fill_diagonal(inner, 1.0)
    rows = build_rows(training, lam, inducing, range(training.n_train), inner, n_threads, progress)
    return Preconditioner(rows, factor_inner(inner, n_threads))


def build_rows(
    training: TrainingSet,
    lam: float,
    inducing: Inducing,
    part: range,
    gram: Array,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Rows:
    """Build the rows of a range of training points, and add their U^T U to `gram` (k, k), its lower triangle."""
    n_coord, k = training.n_coord, inducing.cols.size
    n_threads = resolve_n_threads(n_threads)
    U, sums = LowRank.zeros(len(part) * n_coord, inducing.order, n_threads), Gram(gram, n_threads)
    roots = np.empty((len(part), n_coord, n_coord))
    step = _points_of_piece(n_coord, k)
    with blas_threads(1, n_threads):
        for start in range(part.start, part.stop, step):
            piece = range(start, min(start + step, part.stop))
            first, last = piece.start - part.start, piece.stop - part.start
            L, root = inducing.explain(training, lam, piece, n_threads)
            roots[first:last] = root
            sums.add(*U.set_rows(slice(first * n_coord, last * n_coord), L, root))
            if progress is not None:
                progress(last, len(part))
    sums.finish()
    return Rows(U, roots)


def factor_inner(inner: Array, n_threads: int) -> Array:
    """Return the lower Cholesky factor of I + U^T U, in its place."""
    with blas_threads(1, n_threads):
        if lapack.cholesky_dense(inner, n_threads) != 0:
            raise SolverError(not_positive_definite())
    return inner


def not_positive_definite() -> str:
    """Return the text of the error for an inner matrix that has no Cholesky factor."""
    return "The preconditioner is not positive definite: try a larger lambda or fewer inducing points."


def factor_with_jitter(W: Any, lam: float, cholesky: Callable[[Any], bool], xp: ModuleType = np) -> Any:
    """Return the lower Cholesky factor of W (k, k), with the smallest jitter that gives one.

    `cholesky` factors a matrix in Fortran order in place, and returns whether it is positive definite.
    """
    diagonal = W.diagonal().copy()
    mean = float(diagonal.mean())
    # Across a straight molecule no distance changes: such columns are zero, and stay zero whatever they are divided by.
    diagonal = xp.where(diagonal > _ABSENT * mean, diagonal, mean)
    jitter = max(_JITTER, lam / mean)
    each = xp.arange(len(W))
    for _ in range(_JITTER_TRIES):
        factor = W.copy(order="F")
        factor[each, each] = diagonal * (1 + jitter)
        if cholesky(factor):
            return factor
        jitter *= 10
    raise SolverError(
        "The columns of the inducing points are linearly dependent. Training points may be duplicates: remove them, or "
        "use a smaller sigma."
    )


def _diagonal_blocks(training: TrainingSet, n_threads: int | None) -> Array:
    """Return A_ii of all points, shape (M, q, q)."""
    n_train, n_coord = training.n_train, training.n_coord
    blocks = np.empty((n_train, n_coord, n_coord))
    for first in range(0, n_train, 8):
        some = training.part(slice(first, first + 8))
        rows = Coordinates.full(some.n_train, n_coord)
        K = assemble_selected(some, rows, n_threads)
        for i in range(some.n_train):
            part = slice(i * n_coord, (i + 1) * n_coord)
            blocks[first + i] = -K[part, part]
    return blocks
