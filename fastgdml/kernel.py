"""The kernel matrix K of a training set: dense, by columns, or packed for the Cholesky factorisation.

K_ij = sum_p J_i^T [5 b d_p d_p^T - b s (s + n) I] P_p J_j, negative definite (see src/assembly.c for the
equations and how they are evaluated).

Energy constraints add a coordinate to each point, number 3 N, for its negative energy. Here the rows of a point stay
together, 3 N + 1 of them; in the vectors and matrices of sgdml all energies follow all forces. `energies_last` turns
one order into the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import UsageError
from .native import _core
from .threads import resolve_n_threads
from .training_set import TrainingSet
from .types import Array, IntArray, Progress

# Column points of one work item: small enough to balance threads, large enough to amortise loading a tile of rows.
_COLUMNS_PER_ITEM = 64
_PROGRESS_STEPS = 50
# Items of each thread between two looks at signals: enough that threads hardly wait for each other, and about a second.
_ITEMS_AT_ONCE = 64


@dataclass(frozen=True)
class Coordinates:
    """The coordinates of each training point that are rows (or columns) of a matrix.

    Attributes
    ----------
    begin : ndarray of int64, shape (M + 1,)
        First row of each point.
    coord : ndarray of int32, shape (n,)
        Coordinate of each row, ascending within a point: 3 a + alpha, or 3 N for the energy.
    """

    begin: IntArray
    coord: npt.NDArray[np.int32]

    @classmethod
    def full(cls, n_points: int, n_coord: int) -> Coordinates:
        """Take all `n_coord` coordinates of each of `n_points` points."""
        begin = np.arange(n_points + 1, dtype=np.int64) * n_coord
        return cls(begin, np.tile(np.arange(n_coord, dtype=np.int32), n_points))

    @classmethod
    def from_lists(cls, lists: Sequence[npt.ArrayLike]) -> Coordinates:
        """Take the coordinates in one list for each point."""
        begin = np.concatenate([[0], np.cumsum([len(np.atleast_1d(c)) for c in lists])]).astype(np.int64)
        return cls(begin, np.concatenate([np.atleast_1d(c) for c in lists]).astype(np.int32))

    def select(self, rows: IntArray) -> tuple[IntArray, Coordinates]:
        """Return the points of some rows, given ascending, and the coordinates of these points that the rows are."""
        points, begin = np.unique(np.searchsorted(self.begin, rows, side="right") - 1, return_index=True)
        return points, Coordinates(np.append(begin, len(rows)).astype(np.int64), self.coord[rows])

    @property
    def size(self) -> int:
        """Number of rows."""
        return int(self.begin[-1])


def energies_last(n_train: int, n_atoms: int) -> IntArray:
    """Return where the rows of sgdml's order (all forces, then all energies) are in the order point by point.

    Returns
    -------
    ndarray of int64, shape (3 N M + M,)
        ``v[energies_last(M, N)]`` has all energies last, if `v` has 3 N + 1 elements for each point.
    """
    rows = np.arange(n_train * (3 * n_atoms + 1), dtype=np.int64).reshape(n_train, -1)
    return np.concatenate([rows[:, :-1].ravel(), rows[:, -1]])


def check_columns(col_idxs: npt.ArrayLike, n: int) -> IntArray:
    """Return column indices as an array; raise UsageError unless they are ascending, distinct and within n columns."""
    cols = np.asarray(col_idxs, dtype=np.int64)
    if cols.ndim != 1 or (np.diff(cols) <= 0).any() or (len(cols) and not 0 <= cols[0] <= cols[-1] < n):
        raise UsageError(f"Column indices must be ascending, distinct and within 0..{n - 1}.")
    return cols


def packed_size(n: int) -> int:
    """Return the number of elements of a packed symmetric matrix of order n."""
    return n * (n + 1) // 2


def assemble_packed(
    training: TrainingSet,
    rows: Coordinates,
    scale: float = 1.0,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Array:
    """Assemble `scale` times the kernel matrix over chosen coordinates in rectangular full packed storage.

    Parameters
    ----------
    training : TrainingSet
        What the matrix is made of.
    rows : Coordinates
        Which coordinates of each point are rows and columns.
    scale : float
        Factor on every element.
    n_threads : int, optional
        Number of threads; all by default.
    progress : callable, optional
        Called with (done, total) in arbitrary units.

    Returns
    -------
    ndarray, shape (n (n + 1) / 2,)
        LAPACK's RFP format, TRANSR='N', UPLO='L'.
    """
    data = np.empty(packed_size(rows.size))
    target = _Target(rows, np.arange(training.n_train), rows, data, scale, packed=True)
    _fill(training, target, n_threads, progress)
    return data


def assemble_full(training: TrainingSet, n_threads: int | None = None, progress: Progress | None = None) -> Array:
    """Assemble the whole kernel matrix, shape (n_coord M, n_coord M). Parameters as for `assemble_packed`.

    Both triangles are computed: copying one onto the other takes longer.
    """
    rows = Coordinates.full(training.n_train, training.n_coord)
    K = np.empty((rows.size, rows.size), order="F")
    _fill(training, _Target(rows, np.arange(training.n_train), rows, K.ravel("K")), n_threads, progress)
    return K


def assemble_columns(
    training: TrainingSet, col_idxs: npt.ArrayLike, n_threads: int | None = None, progress: Progress | None = None
) -> Array:
    """Assemble chosen columns of the kernel matrix.

    Parameters
    ----------
    col_idxs : array_like of int, shape (n_cols,)
        Columns, ascending and distinct. The other parameters are those of `assemble_packed`.

    Returns
    -------
    ndarray, shape (n_coord M, n_cols)
        In Fortran order.

    Raises
    ------
    UsageError
        If columns are not ascending and distinct, or there are no such columns.
    """
    rows = Coordinates.full(training.n_train, training.n_coord)
    cols = check_columns(col_idxs, rows.size)
    points, columns = rows.select(cols)
    K = np.empty((rows.size, len(cols)), order="F")
    if len(cols):
        _fill(training, _Target(rows, points, columns, K.ravel("K")), n_threads, progress)
    return K


def assemble_selected(training: TrainingSet, rows: Coordinates, n_threads: int | None = None) -> Array:
    """Assemble the kernel matrix over chosen coordinates of all points, dense, in Fortran order."""
    K = np.empty((rows.size, rows.size), order="F")
    _fill(training, _Target(rows, np.arange(training.n_train), rows, K.ravel("K")), n_threads)
    return K


def assemble_rows(
    training: TrainingSet,
    points: range,
    col_points: IntArray,
    cols: Coordinates,
    n_threads: int | None = None,
    rows: Coordinates | None = None,
    out: Array | None = None,
) -> Array:
    """Assemble the rows of a range of training points, and of some columns.

    Parameters
    ----------
    training : TrainingSet
        What the matrix is made of.
    points : range
        Training points whose rows are computed.
    col_points : ndarray of int64, shape (m,)
        Training points of the columns.
    cols : Coordinates
        Which of their coordinates.
    n_threads : int, optional
        Number of threads; all by default.
    rows : Coordinates, optional
        The coordinates of each training point that are rows of the whole matrix; all by default.
    out : ndarray, optional
        Where to put them, at least as many elements in one dimension; new memory by default.

    Returns
    -------
    ndarray, shape (n, cols.size)
        In Fortran order, n rows of these points.
    """
    rows = Coordinates.full(training.n_train, training.n_coord) if rows is None else rows
    first, last = rows.begin[points.start], rows.begin[points.stop]
    rows = Coordinates(np.clip(rows.begin - first, 0, last - first), rows.coord[first:last])
    size = rows.size * cols.size
    K = (np.empty(size) if out is None else out[:size]).reshape(rows.size, cols.size, order="F")
    _fill(training, _Target(rows, col_points, cols, K.ravel("K"), points=points), n_threads)
    return K


@dataclass(frozen=True)
class _Target:
    """Where elements of the kernel matrix go.

    Attributes
    ----------
    rows : Coordinates
        The rows of the matrix.
    col_points : ndarray of int64, shape (m,)
        The points of its columns.
    cols : Coordinates
        Their coordinates that are columns.
    data : ndarray
        The elements, in one dimension: packed, or in Fortran order.
    scale : float
        Factor on every element.
    packed : bool
        Whether only the lower triangle is wanted, packed.
    points : range, optional
        The points that have rows; all by default.
    """

    rows: Coordinates
    col_points: IntArray
    cols: Coordinates
    data: Array
    scale: float = 1.0
    packed: bool = False
    points: range | None = None


def _fill(
    training: TrainingSet, target: _Target, n_threads: int | None = None, progress: Progress | None = None
) -> None:
    """Compute the elements of a matrix."""
    assembly = _core.KernelAssembly(
        np.ascontiguousarray(training.x, dtype=np.float64),
        np.ascontiguousarray(training.g, dtype=np.float64),
        training.tables,
        float(training.sig),
        target.rows.begin,
        target.rows.coord,
        target.col_points,
        target.cols.begin,
        target.cols.coord,
        target.data,
        target.scale,
        target.packed,
    )
    points = target.points or range(training.n_train)
    items = _work_items(points, len(target.col_points), assembly.lanes, target.packed)
    threads = resolve_n_threads(n_threads)
    step = min(max(8 * threads, -(-len(items) // _PROGRESS_STEPS)), _ITEMS_AT_ONCE * threads)
    for first in range(0, len(items), step):
        assembly.fill(items[first : first + step], threads)
        if progress is not None:
            progress(min(first + step, len(items)), len(items))


def _work_items(points: range, n_cols: int, lanes: int, packed: bool) -> IntArray:
    """List (first row point, first and last column point), tiles of rows with the most columns first."""
    items = []
    for j0 in reversed(range(points.start, points.stop, lanes)):
        stop = min(j0 + lanes, n_cols) if packed else n_cols
        items += [(j0, c, min(c + _COLUMNS_PER_ITEM, stop)) for c in range(0, stop, _COLUMNS_PER_ITEM)]
    return np.array(items, dtype=np.int64).reshape(-1, 3)
