"""What lives on the workers in a distributed training: rows of the operator and of the preconditioner.

They are actors. A step calls them a few times, for which the way from client to worker and back is all that counts: a
call of an actor goes straight to its worker, where a task would go through the scheduler's books. What is computed once
(the preconditioner's rows and their Gram matrices) are tasks, whose inputs Dask moves and whose loss it repairs.
"""

from __future__ import annotations

import numpy as np

from ..operator import KernelOperator
from ..solvers.preconditioner import Inducing, Rows, build_rows
from ..threads import blas_threads
from ..training_set import TrainingSet
from ..types import Array, IntArray
from .worker import Here


def threads_here(limit: int | None) -> int:
    """Return the threads of this worker, within a limit."""
    return min(limit or 2**16, Here.now().n_threads)


def hold(training: TrainingSet) -> TrainingSet:
    """Return what is given: a result of a task is where other workers can get it from."""
    return training


def inducing_of(
    training: TrainingSet, lam: float, points: IntArray, columns: list[IntArray], limit: int | None
) -> Inducing:
    """Factor the part W of the inducing points; once, because its rounding errors must be the same for all rows."""
    n_threads = threads_here(limit)
    with blas_threads(n_threads):
        return Inducing.of(training, lam, points, columns, n_threads)


def rows_and_gram(
    training: TrainingSet, inducing: Inducing, lam: float, part: range, limit: int | None
) -> tuple[Rows, Array]:
    """Build the preconditioner's rows of some points, and their U^T U, whose lower triangle counts."""
    n_threads, k = threads_here(limit), inducing.cols.size
    gram = np.zeros((k, k), order="F")
    with blas_threads(n_threads):
        rows = build_rows(training, lam, inducing, part, gram, n_threads)
    return rows, gram


def first_of(pair: tuple[Rows, Array]) -> Rows:
    """Return the rows."""
    return pair[0]


def second_of(pair: tuple[Rows, Array]) -> Array:
    """Return the Gram matrix."""
    return pair[1]


def total(one: Array, other: Array) -> Array:
    """Return the sum of two Gram matrices, in Fortran order."""
    return np.add(one, other, order="F")


class OperatorRows:
    """An actor: rows of K, as an operator."""

    def __init__(self, training: TrainingSet, part: range, limit: int | None) -> None:
        self._operator = KernelOperator(training, threads_here(limit), part)

    def product(self, v: Array) -> Array:
        """Return these rows of K v."""
        return self._operator(np.array(v))


class PreconditionerRows:
    """An actor: rows of the preconditioner."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._scaled: Array | None = None

    def project(self, r: Array) -> Array:
        """Return U^T B^(-1/2) r for these rows of r, and keep B^(-1/2) r for `subtract`."""
        self._scaled, t = self._rows.project(np.array(r))
        return t

    def subtract(self, t: Array) -> Array:
        """Return these rows of P^-1 r, of the r that `project` had."""
        assert self._scaled is not None
        return self._rows.subtract(np.array(t), self._scaled)
