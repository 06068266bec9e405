"""A cluster as what the iteration runs on: its rows live on workers, its vectors here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from ..training_set import TrainingSet
from ..types import Array, IntArray, Progress
from .connection import LOST, Call, Cluster, WorkerFacts
from .plan import Share, data_memory, divide, rows_memory
from .rows import (
    OperatorRows,
    PreconditionerRows,
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

# What calls of an actor raise when its worker is gone: beside those of the scheduler, "Worker holding Actor was lost".
_ACTOR_LOST = (*LOST, OSError, RuntimeError)


@dataclass
class _Block:
    """Rows of some points, and the actors that have them."""

    points: range
    worker: WorkerFacts
    operator: Any = None
    preconditioner: Any = None
    generation: int = -1
    # Kept so that the actors live.
    futures: dict[str, Any] = field(default_factory=dict)


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
    """

    def __init__(self, cluster: Cluster, training: TrainingSet, shares: list[Share], n_threads: int | None) -> None:
        self._cluster, self._training, self._limit = cluster, training, n_threads
        self._blocks = [_Block(share.points, share.worker) for share in shares]
        self._data = cluster.submit(hold, training)
        self._recipe: tuple[Call, float, int] | None = None
        cluster.reach_workers()
        for block in self._blocks:
            try:
                self._start(block, "operator", OperatorRows, self._data, block.points, n_threads)
            except _ACTOR_LOST:
                self._rebuild(block)

    # ---- calls ----------------------------------------------------------------------------------------------------

    def product(self, v: Array) -> Array:
        """Return K v: one broadcast of v, one gather of slices."""
        parts = self._each(lambda block: block.operator.product(v))
        return np.concatenate(parts)

    def project(self, r: Array) -> Array:
        """Return U^T B^(-1/2) r, the sum over the blocks, in their order."""
        parts = self._each(lambda block: block.preconditioner.project(self._slice(r, block)))
        t = np.zeros(len(parts[0]))
        for part in parts:
            t += part
        return t

    def subtract(self, r: Array, t: Array) -> Array:
        """Return P^-1 r, of the r that `project` had, for t = (I + U^T U)^-1 U^T B^(-1/2) r."""

        def again(block: _Block) -> Any:  # a block that was built anew has not seen r
            block.preconditioner.project(self._slice(r, block)).result()
            return block.preconditioner.subtract(t)

        return np.concatenate(self._each(lambda block: block.preconditioner.subtract(t), again))

    def _slice(self, r: Array, block: _Block) -> Array:
        n_coord = self._training.n_coord
        return np.ascontiguousarray(r[block.points.start * n_coord : block.points.stop * n_coord])

    def _each(self, call: Callable[[_Block], Any], again: Callable[[_Block], Any] | None = None) -> list[Any]:
        """Call all blocks at once and return what they return; those that are lost are built anew and called again."""
        results: list[Any] = [None] * len(self._blocks)
        missing, losses = list(range(len(self._blocks))), 0
        while missing:
            pending: dict[int, Any] = {}
            lost = []
            for i in missing:
                try:
                    pending[i] = call(self._blocks[i])
                except _ACTOR_LOST:
                    lost.append(i)
            for i, future in pending.items():
                try:
                    results[i] = future.result()
                except _ACTOR_LOST as error:
                    losses += 1
                    if losses > _MOST_LOSSES * len(self._blocks):
                        raise ClusterError(f"Workers are lost again and again ({error}).") from error
                    lost.append(i)
            for i in sorted(lost):
                self._rebuild(self._blocks[i])
            missing, call = sorted(lost), again or call
        return results

    # ---- building -------------------------------------------------------------------------------------------------

    def _start(self, block: _Block, name: str, kind: type, *arguments: Any) -> None:
        """Start an actor of a block on its worker, and wait for it; raise OSError if the worker is gone."""
        client = self._cluster.client
        given = [each.future() if isinstance(each, Call) else each for each in arguments]
        block.futures[name] = future = client.submit(
            kind, *given, actor=True, workers=[block.worker.address], pure=False
        )
        while True:
            try:
                setattr(block, name, future.result(timeout=2))
                break
            except TimeoutError:
                if block.worker.address not in client.nthreads():
                    future.cancel()
                    raise
        block.generation = self._cluster.generation

    def precondition(self, lam: float, points: IntArray, columns: list[IntArray], progress: Progress | None) -> Array:
        """Build the preconditioner's rows where they live; return I + U^T U (k, k), lower triangle, Fortran order."""
        for block in self._blocks:
            block.preconditioner = None
            block.futures.pop("preconditioner", None)
        inducing = self._cluster.submit(inducing_of, self._data, lam, points, columns, self._limit)
        self._recipe = inducing, lam, sum(map(len, columns))
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
                self._precondition(block, pair)
            except _ACTOR_LOST:
                self._rebuild(block)
        return inner

    def _built(self, block: _Block) -> Call:
        assert self._recipe is not None
        inducing, lam, _ = self._recipe
        where = block.worker.address
        return self._cluster.submit_to(where, rows_and_gram, self._data, inducing, lam, block.points, self._limit)

    def _precondition(self, block: _Block, pair: Call) -> None:
        rows = self._cluster.submit_to(block.worker.address, first_of, pair)
        self._start(block, "preconditioner", PreconditionerRows, rows)

    def _rebuild(self, block: _Block) -> None:
        """Build a block that is lost on a worker that has room for it, or that comes within the cluster's patience."""
        deadline = time.monotonic() + self._cluster.patience
        _log.warning("Worker %s is lost: its rows are built again elsewhere.", block.worker.name)
        while True:
            try:
                self._cluster.require_connection()
                block.worker = self._place(block)
                _log.info("The rows of %d points go to %s.", len(block.points), block.worker.name)
                self._start(block, "operator", OperatorRows, self._data, block.points, self._limit)
                if self._recipe is not None:
                    self._precondition(block, self._built(block))
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

    def _place(self, block: _Block) -> WorkerFacts:
        """Return the worker with the most memory to spare.

        Raises
        ------
        InsufficientMemoryError
            If that is not enough for the block.
        """
        workers = self._cluster.workers()
        best = max(workers, key=lambda worker: worker.memory, default=None)
        k = 0 if self._recipe is None else self._recipe[2]
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


class ClusterOperator:
    """K as an operator whose rows live on workers, from its first product on."""

    def __init__(self, training: TrainingSet, start: Callable[[], Blocks]) -> None:
        one = KernelOperator(training.part(slice(0, 1)), 1)
        self.flops = float(training.n_train**2) * one.flops
        self._start = start

    def __call__(self, v: Array) -> Array:
        """Return K v, shape (n,)."""
        return self._start().product(v)


@dataclass(frozen=True)
class ClusterPreconditioner:
    """P^-1 with its rows on workers, and the factor of I + U^T U here."""

    blocks: Blocks
    inner: Array

    def __call__(self, r: Array) -> Array:
        """Return P^-1 r, shape (n,)."""
        t = self.blocks.project(r)
        k = len(self.inner)
        t[:k] = lapack.solve_cholesky(self.inner, t[:k])
        return self.blocks.subtract(r, t)

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

    def closed_form_memory(self, equations: TrainingEquations) -> int:
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
        return ClusterPreconditioner(blocks, factor_inner(inner))
