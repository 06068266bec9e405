"""Preconditioner of the iterative solver on devices; the twin of `fastgdml.solvers.preconditioner`.

Each device holds the rows of its training points, and works on them where they are. Of a vector it gets these rows; the
k numbers U^T b of each device are added up on the first one, in the order of the devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy.typing as npt

from ..errors import SolverError
from ..kernel import Coordinates
from ..solvers.preconditioner import BLOCK_SHIFT, factor_with_jitter, not_positive_definite
from ..types import IntArray, Progress
from .cholesky import cholesky, cholesky_solve, solve_right
from .devices import DividedTraining
from .kernel import assemble_diagonal, assemble_lower, assemble_rows
from .low_rank import LowRank

# Size of the pieces of the columns that are on a device at once, beside U.
_PIECE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class _Rows:
    """The rows of one device.

    Attributes
    ----------
    U : LowRank, of shape (m q, k)
        The low-rank part.
    root : array, shape (m, q, q)
        The blocks R = B^(-1/2), symmetric here: eigenvectors come in batches, triangles do not.
    """

    U: LowRank
    root: Any

    def scale(self, r: Any) -> Any:
        """Return R r, which is R^T r."""
        return self.U.xp.matmul(self.root, r.reshape(len(self.root), -1, 1)).ravel()


@dataclass(frozen=True)
class Preconditioner:
    """P^-1 of equation (2) of `fastgdml.solvers.preconditioner`.

    Attributes
    ----------
    divided : DividedTraining
        Which rows lie on which device.
    rows : list of _Rows
        For each device.
    inner : array, shape (k, k)
        Lower Cholesky factor of I + U^T U, on the first device.
    """

    divided: DividedTraining
    rows: list[_Rows]
    inner: Any

    def __call__(self, r: Any) -> Any:
        """Return P^-1 r, shape (n,), of r (n,), both on the first device."""
        devices, xp = self.divided.devices, self.divided.xp
        scaled, t = [], xp.zeros(len(self.inner))
        sent = [devices.send(r[self.divided.rows(k)], k) for k in range(len(devices))]
        projected = [xp.empty(len(self.inner)) for _ in sent]
        for k, rows in enumerate(self.rows):
            with devices.on(k):
                scaled.append(rows.scale(sent[k]))
                part = rows.U.project(scaled[k])
            devices.fetch(projected[k], part, k)
        for part in projected:
            t += part
        t = cholesky_solve(self.inner, t, xp)
        out = xp.empty(len(r))
        explained = [devices.send(t, k) for k in range(len(devices))]
        for k, rows in enumerate(self.rows):
            with devices.on(k):
                rows.U.subtract(explained[k], scaled[k])
                part = rows.scale(scaled[k])
            devices.fetch(out[self.divided.rows(k)], part, k)
        return out

    def without(self, points: IntArray) -> Preconditioner:
        """See `fastgdml.solvers.machine.Preconditioner.without`."""
        devices, xp = self.divided.devices, self.divided.xp
        factor = xp.tril(self.inner)
        inner = factor @ factor.T
        del factor
        part = xp.empty(inner.shape)
        for k, rows in enumerate(self.rows):
            own = self.divided.points[k]
            with devices.on(k):
                here = xp.asarray(points[(points >= own.start) & (points < own.stop)] - own.start)
                gram = rows.U.gram(here, rows.root.shape[1])
            devices.fetch(part, gram, k)
            inner -= part
        inner = inner.T
        if not cholesky(inner, xp):
            raise SolverError(not_positive_definite())
        return Preconditioner(self.divided, self.rows, inner)


def memory(n_train: int, n_coord: int, n_columns: int) -> int:
    """Return the bytes of device memory that `n_train` points of a preconditioner of `n_columns` columns need.

    That is while it is built, on the first device.
    """
    n = n_train * n_coord
    piece = 8 * n_coord * n_columns * _points_of_piece(n_train, n_coord, n_columns)
    return LowRank.memory(n, n_columns) + 4 * 8 * n_columns**2 + 8 * n * n_coord + 4 * piece


def build(
    divided: DividedTraining,
    lam: float,
    points: IntArray,
    columns: Sequence[npt.ArrayLike],
    progress: Progress | None = None,
) -> Preconditioner:
    """Build the preconditioner. Parameters as for the twin, but for the training set.

    Raises
    ------
    SolverError
        If the columns are linearly dependent to rounding errors, however much they are regularised.
    """
    xp, devices = divided.xp, divided.devices
    cols = Coordinates.from_lists(columns)
    W = assemble_lower(divided.here[0].part(xp.asarray(points)), cols, -1.0, xp=xp)
    factor = factor_with_jitter(W, lam, lambda matrix: cholesky(matrix, xp), xp)
    del W

    builders = []
    for k in range(len(devices)):
        sent = devices.send(factor, k)
        with devices.on(k):
            builders.append(_Builder(divided, k, lam, points, cols, sent))
    done, n_train = 0, divided.training.n_train
    for turn in range(max(len(builder.pieces) for builder in builders)):
        for k, builder in enumerate(builders):
            if turn < len(builder.pieces):
                with devices.on(k):
                    builder.add(builder.pieces[turn])
                done += len(builder.pieces[turn])
                if progress is not None:
                    progress(done, n_train)
    # The Gram matrices, in the order of the devices.
    inner, gram = builders[0].gram, None
    for k, builder in enumerate(builders[1:], start=1):
        gram = xp.empty(inner.shape) if gram is None else gram
        devices.fetch(gram, builder.gram, k)
        inner += gram
    inner += xp.eye(cols.size)
    inner = inner.T  # symmetric: this is a view in Fortran order
    if not cholesky(inner, xp):
        raise SolverError(not_positive_definite())
    return Preconditioner(divided, [_Rows(builder.U, builder.root) for builder in builders], inner)


def inverse_roots(blocks: Any, lam: float, xp: ModuleType) -> Any:
    """Return (blocks + s I)^(-1/2), s as of (1) of `fastgdml.solvers.preconditioner`."""
    values, vectors = xp.linalg.eigh(blocks)
    shift = lam + BLOCK_SHIFT * xp.linalg.norm(values, axis=1, keepdims=True)
    values = xp.maximum(values, 0.0) + shift
    return xp.matmul(vectors / xp.sqrt(values)[:, None, :], vectors.swapaxes(1, 2))


class _Builder:
    """Makes the rows of one device, piece by piece; that is the current one in all calls."""

    def __init__(
        self, divided: DividedTraining, k: int, lam: float, points: IntArray, cols: Coordinates, factor: Any
    ) -> None:
        self._here, self._lam, self._points, self._cols, self._factor = divided.here[k], lam, points, cols, factor
        self._own, self._xp = divided.points[k], divided.xp
        n_points, n_coord, n_columns = len(self._own), self._here.n_coord, cols.size
        self.U = LowRank(n_points * n_coord, n_columns, self._xp)
        self.root = self._xp.empty((n_points, n_coord, n_coord))
        # U^T U of the rounded U.
        self.gram = self._xp.zeros((n_columns, n_columns))
        step = _points_of_piece(n_points, n_coord, n_columns)
        self.pieces = [range(first, min(first + step, self._own.stop)) for first in self._own[::step]]

    def add(self, piece: range) -> None:
        """Compute the rows of some points."""
        xp, here = self._xp, self._here
        L = assemble_rows(here, piece, self._points, self._cols, -1.0, xp=xp)
        solve_right(self._factor, L, xp)
        missed = assemble_diagonal(here.part(slice(piece.start, piece.stop)), -1.0, xp=xp)
        parts = xp.ascontiguousarray(L).reshape(len(piece), here.n_coord, -1)
        del L
        root = inverse_roots(missed - xp.matmul(parts, parts.swapaxes(1, 2)), self._lam, xp)
        first = piece.start - self._own.start
        self.root[first : first + len(piece)] = root
        rounded = self.U.set_rows(first * here.n_coord, xp.matmul(root, parts).reshape(-1, self._cols.size))
        self.gram += rounded.T @ rounded


def _points_of_piece(n_train: int, n_coord: int, n_columns: int) -> int:
    return min(n_train, max(1, _PIECE_BYTES // (8 * n_coord * n_columns)))
