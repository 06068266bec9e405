"""What lives on the workers in a distributed training: rows of the operator and of the preconditioner.

They are actors. A step calls them twice, for which the way from client to worker and back is all that counts: a call of
an actor goes straight to its worker, where a task would go through the scheduler's books. What is computed once
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
    return Inducing.of(training, lam, points, columns, threads_here(limit))


def rows_and_gram(
    training: TrainingSet, inducing: Inducing, lam: float, part: range, limit: int | None
) -> tuple[Rows, Array]:
    """Build the preconditioner's rows of some points, and their U^T U, whose lower triangle counts."""
    n_threads, k = threads_here(limit), inducing.cols.size
    gram = np.zeros((k, k), order="F")
    return build_rows(training, lam, inducing, part, gram, n_threads), gram


def first_of(pair: tuple[Rows, Array]) -> Rows:
    """Return the rows."""
    return pair[0]


def second_of(pair: tuple[Rows, Array]) -> Array:
    """Return the Gram matrix."""
    return pair[1]


def total(one: Array, other: Array) -> Array:
    """Return the sum of two Gram matrices, in Fortran order."""
    return np.add(one, other, order="F")


class BlockRows:
    """An actor: rows of the operator and, once that is built, of the preconditioner.

    Dask runs a method in a thread of its own, so that the worker answers others meanwhile, and a coroutine in the
    thread that receives. Where a call takes milliseconds, the changes of threads there and back count: those that end
    in ``_at_once`` save them.

    Parameters
    ----------
    training : TrainingSet
        What K is made of.
    part : range
        The training points whose rows these are.
    limit : int, optional
        Most threads.
    rows : Rows, optional
        Theirs of the preconditioner.
    lam : float
        Regularisation.
    """

    def __init__(
        self, training: TrainingSet, part: range, limit: int | None, rows: Rows | None = None, lam: float = 0.0
    ) -> None:
        n_coord = training.n_coord
        self._operator, self._rows, self._lam = KernelOperator(training, threads_here(limit), part), rows, lam
        self._own = slice(part.start * n_coord, part.stop * n_coord)

    def product(self, v: Array) -> Array:
        """Return these rows of K v; with a preconditioner, behind them their share of U^T R A v, A = lam - K."""
        v = np.array(v)
        image = self._operator(v)
        if self._rows is None:
            return image
        with blas_threads(1):
            _, t = self._rows.project(self._lam * v[self._own] - image)
        return np.concatenate([image, t])

    def project(self, r: Array) -> Array:
        """Return the share of U^T R r of these rows of r."""
        assert self._rows is not None
        with blas_threads(1):
            return self._rows.project(np.array(r))[1]

    def apply(self, r: Array, t: Array) -> Array:
        """Return these rows of P^-1 r, of these rows of r and (I + U^T U)^-1 U^T R r."""
        assert self._rows is not None
        with blas_threads(1):
            return self._rows.subtract(np.array(t), self._rows.scale(r))

    async def product_at_once(self, v: Array) -> Array:
        """See `product`."""
        return self.product(v)

    async def project_at_once(self, r: Array) -> Array:
        """See `project`."""
        return self.project(r)

    async def apply_at_once(self, r: Array, t: Array) -> Array:
        """See `apply`."""
        return self.apply(r, t)
