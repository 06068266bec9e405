"""The processor as what the solvers run on: packed matrices, the matrix-free kernel, threads of both and of BLAS."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from .. import lapack, memory
from ..errors import InsufficientMemoryError, SolverError
from ..kernel import Coordinates, assemble_packed, packed_size
from ..operator import KernelOperator
from ..threads import blas_threads, resolve_n_threads
from ..training_set import TrainingSet
from ..types import Array, IntArray, Progress
from . import mixed_precision, preconditioner
from .cost import Rates
from .equations import TrainingEquations
from .machine import Factor, Machine

_log = logging.getLogger(__name__)


def processor(n_threads: int | None = None) -> Machine:
    """Return the processor, of which `n_threads` threads are used; all by default."""
    return Processor(resolve_n_threads(n_threads))


# Of BLAS: buffers of its threads, which grow with the matrices that it gets.
_BUFFERS = 32 * 2**20


def memory_estimate(n: int, n_train: int, n_atoms: int, n_perms: int = 1, single: bool = False) -> int:
    """Return the bytes that the closed form needs: a matrix of order n, descriptors, blocks of the reduction.

    With `single` those of `mixed_precision`.
    """
    n_kept = -(-n // n_train)
    n_desc = n_atoms * (n_atoms - 1) // 2
    matrix = mixed_precision.memory(n, n_train) if single else 8 * packed_size(n)
    blocks = 2 * n_train * n_kept**2
    descriptors = 6 * n_train * n_desc
    scratch = 8 * (24 * n_atoms**2 + 6 * n_perms * n_atoms + 9 * n_atoms)
    group = 5 * n_perms * n_atoms**2  # index tables: they count for groups of thousands
    return matrix + 8 * (blocks + descriptors + scratch + group) + _BUFFERS


class PackedFactor(Factor):
    """A Cholesky factor in rectangular full packed storage."""

    def __init__(self, packed: Array, n: int, n_threads: int) -> None:
        self._packed, self._n, self._n_threads = packed, n, n_threads

    def solve(self, rhs: Array) -> Array:
        """Return the solution of one right-hand side (n,) or of several (n, k)."""
        columns = rhs.ravel("F").copy()
        with blas_threads(1, self._n_threads):  # in each thread of ours
            lapack.solve(self._packed, self._n, columns, self._n_threads)
        return columns.reshape(rhs.shape, order="F")

    def invert(self) -> Callable[[int, int], Array]:
        """See `Factor.invert`. It stays in packed storage."""
        with blas_threads(1, self._n_threads):
            if lapack.invert_factor(self._packed, self._n, self._n_threads) != 0:
                raise SolverError("The Cholesky factor cannot be inverted: raise lambda.")

        def columns(first: int, last: int) -> Array:
            part = np.empty((self._n, last - first))
            lapack.factor_columns(self._packed, self._n, first, last, part)
            return part

        return columns


class Processor(Machine):
    """The processor, with a number of threads."""

    xp = np
    of_memory = ""
    rates = Rates()
    compares = True
    inverts = True

    def __init__(self, n_threads: int) -> None:
        self._n_threads = n_threads

    def limit(self, max_memory: float | None) -> float:
        """Return the limit given, without one the memory that is available now, in bytes."""
        if max_memory is None:
            return float(memory.available())
        space = memory.address_space()
        return max_memory * 2**30 if space is None else min(max_memory * 2**30, space)

    def factor(
        self,
        training: TrainingSet,
        rows: Coordinates,
        blocks: Array,
        progress: Progress | None = None,
        on_assembled: Callable[[], None] | None = None,
    ) -> Factor | None:
        """Assemble and factor in place, in packed storage: half the memory of the square matrix."""
        matrix = assemble_packed(training, rows, -1.0, self._n_threads, progress)
        if on_assembled is not None:
            on_assembled()
        lapack.add_blocks(matrix, rows.size, rows.begin, np.ascontiguousarray(blocks))
        with blas_threads(1, self._n_threads):
            info = lapack.cholesky(matrix, rows.size, self._n_threads)
        return PackedFactor(matrix, rows.size, self._n_threads) if info == 0 else None

    def solve(
        self,
        training: TrainingSet,
        rows: Coordinates,
        blocks: Array,
        rhs: Array,
        progress: Progress | None = None,
        on_assembled: Callable[[], None] | None = None,
        max_bytes: float = math.inf,
    ) -> Array | None:
        """Solve by a factor in single precision, where that is faster and enough; see `mixed_precision`."""
        if rows.size >= mixed_precision.LEAST_ORDER:
            found = mixed_precision.solve(training, rows, blocks, rhs, self._n_threads, progress, on_assembled)
            if found is not None:
                _log.info("Factored in single precision, refined in %d steps.", found[1])
                return found[0]
            needed = memory_estimate(rows.size, training.n_train, training.n_atoms, training.n_perms)
            if needed > max_bytes:
                raise InsufficientMemoryError(
                    "Single precision is not enough for this kernel matrix, and in double precision the closed form "
                    f"needs {needed / 2**30:.3g} GB; the limit is {max_bytes / 2**30:.3g} GB. Use the iterative solver "
                    "(solver='cg', --solver cg), a larger lambda, or a larger limit (max_memory, -m)."
                )
            _log.info("Single precision is not enough for this matrix: it is factored in double precision.")
        return super().solve(training, rows, blocks, rhs, progress, on_assembled)

    def closed_form_memory(self, equations: TrainingEquations, keeps_factor: bool = True) -> int:
        """Return the bytes that the closed form needs; see `memory_estimate`."""
        training, n = equations.training, equations.order
        single = not keeps_factor and n >= mixed_precision.LEAST_ORDER
        return memory_estimate(n, training.n_train, training.n_atoms, training.n_perms, single)

    def to_host(self, vector: Array) -> Array:
        """Return the vector, which is on the host."""
        return vector

    def operator(self, training: TrainingSet) -> KernelOperator:
        """Return the matrix-free kernel."""
        return KernelOperator(training, self._n_threads)

    def preconditioner(
        self,
        training: TrainingSet,
        lam: float,
        points: IntArray,
        columns: Sequence[npt.ArrayLike],
        progress: Progress | None = None,
    ) -> preconditioner.Preconditioner:
        """Build the preconditioner."""
        return preconditioner.build(training, lam, points, columns, self._n_threads, progress)

    def preconditioner_memory(self, n_train: int, n_coord: int, n_columns: int) -> int:
        """Return the bytes that a preconditioner needs while it is built."""
        return preconditioner.memory(n_train, n_coord, n_columns)
