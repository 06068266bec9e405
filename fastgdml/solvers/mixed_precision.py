"""Closed form in single precision, refined to more than double precision gives: less time and memory.

The kernel matrix A is so ill-conditioned that a Cholesky factor in single precision does not exist: rounding errors are
relative to the largest part of it, which few directions make up. Without what some columns explain,

    S = A - U U^T,    U = C W^(-T/2),                                                                      (1)

C the columns and W their own rows, what is left is smaller by orders of magnitude, and so are its rounding errors. S is
computed in double precision, rounded, and factored in single precision; its rows that belong to W are zero, and left
out. Of a vector r, with r_W its rows of W and W^(1/2) the Cholesky factor, block elimination makes

    z = W^(-1/2) r_W,    s = S^-1 (r - U z),    A^-1 r = (W^(-T/2) (z - U^T s), s),                          (2)

up to those errors. Conjugate gradients with (2) as preconditioner, and with exact products (`fastgdml.operator`), take
some steps to residuals that a factor in double precision does not reach: there they are 1e-9 to 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import lapack
from ..kernel import Coordinates, assemble_rows, packed_size
from ..operator import KernelOperator
from ..threads import blas_threads
from ..training_set import TrainingSet
from ..types import Array, IntArray, Progress
from .conjugate_gradients import iterate

# The order from which on this is worth its steps.
LEAST_ORDER = 2000
# The share of the columns that are U, and of how many of the coordinates of a point one is taken. With half of the
# columns two of five matrices had no factor.
_SHARE = 0.04
_PART = 4
# What the diagonal of S is raised by, relatively: it gives factors to matrices that are otherwise singular to rounding
# errors, and costs others a step at most.
_SHIFT = 1e-6
# The relative residual that is refined to, and the steps within which: with more, double precision takes less time.
_TOLERANCE = 1e-10
_MOST_STEPS = 40
# After so many steps half of the way to the tolerance, on a logarithmic scale, that an even course would have made.
_LOOK = 10
# Columns that are assembled at once: of small matrices an eighth.
_COLUMNS = 512


def memory(n: int, n_train: int) -> int:
    """Return the bytes that a matrix of order n takes, of so many training points."""
    n_coord = -(-n // n_train)
    k = math.ceil(_SHARE * n) + n_coord
    at_once = n * n_coord * _points_at_once(n, n_train)
    return 4 * packed_size(n) + 8 * (n * k + at_once + 3 * k**2 + 12 * n)


def _points_at_once(n: int, n_train: int) -> int:
    return max(1, min(_COLUMNS, n // 8) * n_train // n)


@dataclass(frozen=True)
class Inverse:
    """r -> A^-1 r up to rounding errors in single precision, by equation (2).

    Attributes
    ----------
    U : ndarray, shape (n, k)
        The low-rank part, in Fortran order.
    factor : ndarray, shape (k, k)
        Lower Cholesky factor of W.
    taken : ndarray of int, shape (k,)
        The rows of W.
    single : ndarray of float32, shape (n (n + 1) / 2,)
        Cholesky factor of S, packed; the identity in the rows of W.
    n_threads : int
        Number of threads.
    """

    U: Array
    factor: Array
    taken: IntArray
    single: npt.NDArray[np.float32]
    n_threads: int

    def __call__(self, r: Array) -> Array:
        """Return A^-1 r, shape (n,)."""
        g = lapack.solve_cholesky(self.factor, r[self.taken], self.n_threads)
        t = r - self.U @ (self.factor.T @ g)
        t[self.taken] = 0.0
        largest = float(np.abs(t).max()) or 1.0  # within the range of single precision
        s = largest * lapack.solve_single(self.single, (t / largest).astype(np.float32), self.n_threads).astype(float)
        s[self.taken] = g - lapack.solve_cholesky(self.factor, self.factor @ (self.U.T @ s), self.n_threads)
        return s


def solve(
    training: TrainingSet,
    rows: Coordinates,
    blocks: Array,
    rhs: Array,
    n_threads: int,
    progress: Progress | None = None,
    on_assembled: Callable[[], None] | None = None,
) -> tuple[Array, int] | None:
    """Solve (-K_rr + blockdiag(blocks)) x = rhs.

    Parameters
    ----------
    rhs : ndarray, shape (n,)
        Right-hand side. The others are those of `machine.Machine.factor`.

    Returns
    -------
    tuple of ndarray, shape (n,), and int, or None
        The solution and the steps to it; None where single precision is not enough.
    """
    with blas_threads(1, n_threads):
        inverse = _invert(training, rows, blocks, n_threads, progress, on_assembled)
        if inverse is None:
            return None
        product = _Product(training, rows, blocks, n_threads)
        norm = float(np.linalg.norm(rhs))
        for state in iterate(product, inverse, rhs):
            if state.residual <= _TOLERANCE * norm:
                return state.x, state.step
            if state.step >= _LOOK and not state.residual <= norm * _TOLERANCE ** (state.step / _MOST_STEPS / 2):
                break  # it may also be not a number
            if state.step == _MOST_STEPS:
                break
    return None


class _Product:
    """x -> (-K_rr + blockdiag(blocks)) x, without the matrix."""

    def __init__(self, training: TrainingSet, rows: Coordinates, blocks: Array, n_threads: int) -> None:
        self._operator, self._blocks = KernelOperator(training, n_threads), blocks
        sizes = np.diff(rows.begin)
        points = np.repeat(np.arange(training.n_train), sizes)
        self._in_K = points * training.n_coord + rows.coord
        self._in_blocks = points * blocks.shape[1] + np.arange(rows.size) - np.repeat(rows.begin[:-1], sizes)
        self._n = training.n_train * training.n_coord

    def __call__(self, x: Array) -> Array:
        of_K, of_blocks = np.zeros(self._n), np.zeros(self._blocks.shape[:2])
        of_K[self._in_K] = x
        of_blocks.ravel()[self._in_blocks] = x
        added = np.matmul(self._blocks, of_blocks[:, :, None]).ravel()
        return added[self._in_blocks] - self._operator(of_K)[self._in_K]


def _invert(
    training: TrainingSet,
    rows: Coordinates,
    blocks: Array,
    n_threads: int,
    progress: Progress | None,
    on_assembled: Callable[[], None] | None,
) -> Inverse | None:
    """Return A^-1, or None if there is no factor in single precision."""
    n_train, n = training.n_train, rows.size
    taken = _choose(rows)
    U = _columns(training, rows, blocks, range(n_train), taken, n_threads)
    factor = np.asfortranarray(U[taken])
    if lapack.cholesky_dense(factor, n_threads) != 0:
        return None
    factor = np.asfortranarray(np.tril(factor))
    lapack.solve_triangular_right(factor, U, n_threads)
    single = np.empty(packed_size(n), dtype=np.float32)
    step = _points_at_once(n, n_train)
    buffer = np.empty(n * step * int(np.diff(rows.begin).max()))
    for first in range(0, n_train, step):
        last = min(first + step, n_train)
        columns = np.arange(rows.begin[first], rows.begin[last])
        A = _columns(training, rows, blocks, range(first, n_train), columns, n_threads, buffer)
        lapack.set_residual(single, n, int(rows.begin[first]), A, U, _SHIFT, n_threads)
        if progress is not None:
            progress(last, n_train)
    lapack.isolate(single, n, taken)
    if on_assembled is not None:
        on_assembled()
    if lapack.cholesky_single(single, n, n_threads) != 0:
        return None
    return Inverse(U, factor, taken, single, n_threads)


def _choose(rows: Coordinates) -> IntArray:
    """Return the columns of U, ascending: of some points, of each a part of the coordinates; always the same draw."""
    rng, n_train = np.random.default_rng(0), len(rows.begin) - 1
    points = rng.permutation(n_train)[: max(2, math.ceil(_SHARE * _PART * n_train))]
    parts = [rng.permutation(np.arange(*rows.begin[i : i + 2])) for i in points]
    return np.sort(np.concatenate([part[: max(1, len(part) // _PART)] for part in parts]))


def _columns(
    training: TrainingSet,
    rows: Coordinates,
    blocks: Array,
    points: range,
    columns: IntArray,
    n_threads: int,
    out: Array | None = None,
) -> Array:
    """Return the rows of a range of points, and some columns, of A, in Fortran order."""
    col_points, cols = rows.select(columns)
    A = assemble_rows(training, points, col_points, cols, n_threads, rows, out)
    A *= -1.0
    above = rows.begin[points.start]
    for i, first, last in zip(col_points, cols.begin, cols.begin[1:], strict=False):
        here = slice(rows.begin[i], rows.begin[i + 1])
        taken = columns[first:last] - here.start
        A[here.start - above : here.stop - above, first:last] += blocks[i, : here.stop - here.start, taken].T
    return A
