"""A cluster as what the iteration runs on: its rows live on workers, its vectors here."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import lapack
from ..errors import ClusterError, InsufficientMemoryError, UsageError
from ..kernel import Coordinates
from ..operator import KernelOperator
from ..solvers.cost import Rates
from ..solvers.equations import TrainingEquations
from ..solvers.machine import Factor, Machine
from ..solvers.preconditioner import factor_inner
from ..solvers.processor import memory_estimate
from ..threads import resolve_n_threads
from ..training_set import TrainingSet
from ..types import Array, IntArray, Progress
from .connection import LOST, Call, Cluster, WorkerFacts
from .plan import Share, data_memory, divide, rows_memory
from .rows import (
    BlockRows,
    first_of,
    hold,
    inducing_of,
    rows_and_gram,
    second_of,
    total,
)

_log = logging.getLogger(__name__)

# Times that the rows for one product may be lost.
_MOST_LOSSES = 8

# Up to so many seconds a call may keep a worker from answering anything else.
_SHORT = 0.2

# Rounding errors of a residual that is updated, relative to its norm.
_ROUNDING = 1e-13

# What calls of an actor raise when its worker is gone: beside those of the scheduler, "Worker holding Actor was lost".
_ACTOR_LOST = (*LOST, OSError, RuntimeError)


@dataclass
class _Block:
    """Rows of some points, and the actor that has them."""

    points: range
    worker: WorkerFacts
    actor: Any = None
    # Kept so that the actor lives.
    future: Any = None
    # Of the connection that the actor is called by.
    generation: int = -1


@dataclass(frozen=True)
class _Recipe:
    """What rows of the preconditioner are built from."""

    inducing: Call
    lam: float
    n_columns: int


@dataclass(frozen=True)
class Image:
    """A v, A = lam - K, and its projection U^T R A v."""

    values: Array
    projection: Array


class Blocks:
    """All rows of a training set, on the workers. Lost ones are built again elsewhere, and the call is repeated.

    Parameters
    ----------
    cluster : Cluster
        The workers.
    training : TrainingSet
        What K is made of.
    shares : list of Share
        Which rows go where.
    n_threads : int, optional
        Most threads of a worker.

    Attributes
    ----------
    image : Image, optional
        That of the last vector that was multiplied, since there is a preconditioner.
    """

    def __init__(self, cluster: Cluster, training: TrainingSet, shares: list[Share], n_threads: int | None) -> None:
        self._cluster, self._training, self._limit = cluster, training, n_threads
        self.image: Image | None = None
        self._blocks = [_Block(share.points, share.worker) for share in shares]
        self._data = cluster.submit(hold, training)
        self._recipe: _Recipe | None = None
        # How long the last call of each method took.
        self._seconds: dict[str, float] = {}
        cluster.reach_workers()
        for block in self._blocks:
            try:
                self._start(block)
            except _ACTOR_LOST:
                self._rebuild(block)

    # ---- calls ----------------------------------------------------------------------------------------------------

    def product(self, v: Array) -> Array:
        """Return K v: one broadcast of v, one gather of slices, with which the projections of A v come."""
        parts = self._each("product", lambda block: (v,))
        if self._recipe is None:
            return np.concatenate(parts)
        sizes = [len(block.points) * self._training.n_coord for block in self._blocks]
        image = np.concatenate([part[:size] for part, size in zip(parts, sizes, strict=True)])
        projection = _total([part[size:] for part, size in zip(parts, sizes, strict=True)])
        self.image = Image(self._recipe.lam * v - image, projection)
        return image

    def project(self, r: Array) -> Array:
        """Return U^T R r."""
        return _total(self._each("project", lambda block: (self._slice(r, block),)))

    def apply(self, r: Array, t: Array) -> Array:
        """Return P^-1 r for t = (I + U^T U)^-1 U^T R r."""
        return np.concatenate(self._each("apply", lambda block: (self._slice(r, block), t)))

    def _slice(self, r: Array, block: _Block) -> Array:
        n_coord = self._training.n_coord
        return np.ascontiguousarray(r[block.points.start * n_coord : block.points.stop * n_coord])

    def _each(self, method: str, arguments: Callable[[_Block], tuple[Array, ...]]) -> list[Any]:
        """Call all blocks at once and return what they return; those that are lost are built anew and called again."""
        results: list[Any] = [None] * len(self._blocks)
        missing, losses, began = list(range(len(self._blocks))), 0, time.perf_counter()
        name = method if self._seconds.get(method, math.inf) > _SHORT else f"{method}_at_once"

        def start(block: _Block) -> Callable[[], Awaitable[Any]]:
            given = arguments(block)
            return lambda: getattr(block.actor, name)(*given)

        while missing:
            reached = [i for i in missing if self._blocks[i].generation == self._cluster.generation]
            found = self._cluster.gathered([start(self._blocks[i]) for i in reached])
            for i, result in zip(reached, found, strict=True):
                if isinstance(result, _ACTOR_LOST):
                    losses += 1
                    if losses > _MOST_LOSSES * len(self._blocks):
                        raise ClusterError(f"Workers are lost again and again ({result}).") from result
                elif isinstance(result, BaseException):
                    raise result
                else:
                    results[i] = result
            missing = [i for i in missing if results[i] is None]
            for i in missing:
                self._rebuild(self._blocks[i])
        self._seconds[method] = time.perf_counter() - began
        return results

    # ---- building -------------------------------------------------------------------------------------------------

    def _start(self, block: _Block, rows: Call | None = None) -> None:
        """Start the actor of a block on its worker, and wait for it; raise OSError if the worker is gone."""
        client = self._cluster.client
        given: tuple[Any, ...] = (self._data.future(), block.points, self._limit)
        if rows is not None and self._recipe is not None:
            given = (*given, rows.future(), self._recipe.lam)
        block.future = future = client.submit(BlockRows, *given, actor=True, workers=[block.worker.address], pure=False)
        while True:
            try:
                block.actor, block.generation = future.result(timeout=2), self._cluster.generation
                break
            except TimeoutError:
                if block.worker.address not in client.nthreads():
                    future.cancel()
                    raise

    def precondition(self, lam: float, points: IntArray, columns: list[IntArray], progress: Progress | None) -> Array:
        """Build the preconditioner's rows where they live; return I + U^T U (k, k), lower triangle, Fortran order."""
        for block in self._blocks:  # without rows of the one before
            block.actor = block.future = None
        self.image = None
        inducing = self._cluster.submit(inducing_of, self._data, lam, points, columns, self._limit)
        self._recipe = _Recipe(inducing, lam, sum(map(len, columns)))
        built = [self._built(block) for block in self._blocks]
        grams, done = [], 0
        for block, pair in zip(self._blocks, built, strict=True):
            pair.wait()
            done += len(block.points)
            if progress is not None:
                progress(done, self._training.n_train)
            grams.append(self._cluster.submit_to(block.worker.address, second_of, pair))
        while len(grams) > 1:  # a tree of sums
            paired = [
                self._cluster.submit(total, one, other) for one, other in zip(grams[::2], grams[1::2], strict=False)
            ]
            grams = paired + grams[len(grams) // 2 * 2 :]
        inner = np.asfortranarray(grams[0].result()).copy(order="F")
        inner[np.diag_indices_from(inner)] += 1.0
        for block, pair in zip(self._blocks, built, strict=True):
            try:
                self._start_with_rows(block, pair)
            except _ACTOR_LOST:
                self._rebuild(block)
        return inner

    def _built(self, block: _Block) -> Call:
        assert self._recipe is not None
        inducing, lam, where = self._recipe.inducing, self._recipe.lam, block.worker.address
        return self._cluster.submit_to(where, rows_and_gram, self._data, inducing, lam, block.points, self._limit)

    def _start_with_rows(self, block: _Block, pair: Call) -> None:
        self._start(block, self._cluster.submit_to(block.worker.address, first_of, pair))

    def _rebuild(self, block: _Block) -> None:
        """Build a block that is lost on a worker that has room for it, or that comes within the cluster's patience."""
        deadline = time.monotonic() + self._cluster.patience
        _log.warning("Worker %s is lost: its rows are built again elsewhere.", block.worker.name)
        while True:
            try:
                self._cluster.require_connection()
                block.worker = self._place(block)
                _log.info("The rows of %d points go to %s.", len(block.points), block.worker.name)
                if self._recipe is None:
                    self._start(block)
                else:
                    self._start_with_rows(block, self._built(block))
                return
            except InsufficientMemoryError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)
            except _ACTOR_LOST as error:
                if isinstance(error, ClusterError) or time.monotonic() > deadline:
                    raise
                _log.info("That worker is lost, too.")
                time.sleep(0.5)
                if isinstance(error, CancelledError):
                    # A scheduler that came back while workers went has dropped the calls whose results were on these.
                    self._cluster.recover(self._cluster.generation)

    def _place(self, block: _Block) -> WorkerFacts:
        """Return the worker with the most memory to spare.

        Raises
        ------
        InsufficientMemoryError
            If that is not enough for the block.
        """
        workers = self._cluster.workers()
        best = max(workers, key=lambda worker: worker.memory, default=None)
        k = 0 if self._recipe is None else self._recipe.n_columns
        needed = rows_memory(len(block.points), self._training.n_coord, k)
        holding = {other.worker.address for other in self._blocks if other is not block}
        if best is not None and best.address not in holding:
            needed += data_memory(self._training)
        if best is None or best.memory < needed:
            there = "no worker is left" if best is None else f"{best.name} has {best.memory / 2**30:.3g} GB"
            raise InsufficientMemoryError(
                f"The rows of a lost worker need {needed / 2**30:.3g} GB elsewhere; {there}. Start another worker; a "
                "checkpoint goes on with `resume`."
            )
        return best


def _total(parts: list[Array]) -> Array:
    """Return the sum, in this order, whichever part came first."""
    total = np.zeros_like(parts[0])
    for part in parts:
        total += part
    return total


class ClusterOperator:
    """K as an operator whose rows live on workers, from its first product on."""

    def __init__(self, training: TrainingSet, start: Callable[[], Blocks]) -> None:
        one = KernelOperator(training.part(slice(0, 1)), 1)
        self.flops = float(training.n_train**2) * one.flops
        self._start = start

    def __call__(self, v: Array) -> Array:
        """Return K v, shape (n,)."""
        return self._start().product(v)


class ClusterPreconditioner:
    """P^-1 with its rows on workers, and the factor of I + U^T U here.

    Conjugate gradients ask for P^-1 r of residuals r = r' - a A p, of which r' was the one before and A p is the last
    product. The projection is linear, and that of A p has come with the product:

        U^T R r = U^T R r' - a U^T R A p                                                  (1)

    so that a step calls the workers twice, not three times. Other vectors (the first residual, those computed anew
    from their definition) are projected by a call of their own.

    Parameters
    ----------
    blocks : Blocks
        The rows.
    inner : ndarray, shape (k, k)
        Lower Cholesky factor of I + U^T U.
    """

    def __init__(self, blocks: Blocks, inner: Array) -> None:
        self._blocks, self._inner = blocks, inner
        # The vector before, and its projection.
        self._before: tuple[Array, Array] | None = None

    def __call__(self, r: Array) -> Array:
        """Return P^-1 r, shape (n,)."""
        t = self._projection(r)
        self._before = r.copy(), t
        return self._blocks.apply(r, lapack.solve_cholesky(self._inner, t, resolve_n_threads()))

    def _projection(self, r: Array) -> Array:
        """Return U^T R r, by equation (1) where r is such a vector."""
        image = self._blocks.image
        if self._before is not None and image is not None:
            before, t = self._before
            change, square = before - r, image.values @ image.values
            if square > 0:
                a = (change @ image.values) / square
                change -= a * image.values
                if np.linalg.norm(change) <= _ROUNDING * (np.linalg.norm(before) + np.linalg.norm(r)):
                    return t - a * image.projection
        return self._blocks.project(r)

    def without(self, points: IntArray) -> ClusterPreconditioner:
        """Raise UsageError: standard deviations are not divided."""
        raise UsageError("Standard deviations (n_std) are not divided among workers: one task a worker.")


class ClusterMachine(Machine):
    """The workers of a cluster, for the iteration: `choice.choose` and `choice.run` as on the processor.

    Number of columns and course of the iteration follow from the same rates as there, so that the steps are the same.

    Parameters
    ----------
    cluster : Cluster
        The workers.
    n_threads : int, optional
        Most threads of a worker.
    max_memory : float, optional
        Most memory of a worker, in GB (2**30 bytes).
    """

    xp = np
    of_memory = " of the smallest worker"
    rates = Rates()
    compares = False

    def __init__(self, cluster: Cluster, n_threads: int | None = None, max_memory: float | None = None) -> None:
        self._cluster, self._n_threads = cluster, n_threads
        most = float("inf") if max_memory is None else max_memory * 2**30
        self.workers = [
            WorkerFacts(each.address, each.name, each.n_threads, min(each.memory, most)) for each in cluster.workers()
        ]
        self._blocks: Blocks | None = None

    def shares(self, n_train: int) -> list[Share]:
        """Return which rows go where."""
        return divide(n_train, self.workers)

    def limit(self, max_memory: float | None) -> float:
        """Return the memory of the worker that has least; that of the others counts in `preconditioner_memory`."""
        return min(worker.memory for worker in self.workers)

    def iteration_memory(self, training: TrainingSet) -> int:
        """Return what each worker holds whatever the number of columns."""
        return data_memory(training)

    def preconditioner_memory(self, n_train: int, n_coord: int, n_columns: int) -> int:
        """Return the bytes on the worker that is fullest, less what it has more than the smallest one."""
        least = self.limit(None)
        return max(
            int(rows_memory(len(share.points), n_coord, n_columns) - (share.worker.memory - least))
            for share in self.shares(n_train)
        )

    def closed_form_memory(self, equations: TrainingEquations, keeps_factor: bool = True) -> int:
        """Return what the closed form would need on one machine."""
        training = equations.training
        return memory_estimate(equations.order, training.n_train, training.n_atoms, training.n_perms)

    def factor(
        self,
        training: TrainingSet,
        rows: Coordinates,
        blocks: Array,
        progress: Progress | None = None,
        on_assembled: Callable[[], None] | None = None,
    ) -> Factor | None:
        """Raise UsageError: the closed form is not divided."""
        raise UsageError("The closed form is not divided among workers: solver='cg', or one task a worker.")

    def to_host(self, vector: Array) -> Array:
        """Return the vector, which is here."""
        return vector

    def _rows(self, training: TrainingSet) -> Blocks:
        if self._blocks is None:
            self._blocks = Blocks(self._cluster, training, self.shares(training.n_train), self._n_threads)
        return self._blocks

    def operator(self, training: TrainingSet) -> ClusterOperator:
        """Return K as an operator; its rows are sent when they are needed."""
        return ClusterOperator(training, lambda: self._rows(training))

    def preconditioner(
        self,
        training: TrainingSet,
        lam: float,
        points: IntArray,
        columns: Sequence[npt.ArrayLike],
        progress: Progress | None = None,
    ) -> ClusterPreconditioner:
        """Build the preconditioner where its rows live."""
        blocks = self._rows(training)
        taken = [np.asarray(each, dtype=np.int64) for each in columns]
        inner = blocks.precondition(lam, points, taken, progress)
        return ClusterPreconditioner(blocks, factor_inner(inner, resolve_n_threads()))
