"""A device as what the solvers run on; the twin of `fastgdml.solvers.processor`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import numpy.typing as npt

from ..kernel import Coordinates
from ..solvers.cost import Rates
from ..solvers.equations import TrainingEquations
from ..solvers.machine import Factor, Machine
from ..training_set import TrainingSet
from ..types import Array, IntArray, Progress
from . import cholesky, preconditioner
from .arrays import free_memory, release
from .operator import KernelOperator


def device(xp: ModuleType) -> Machine:
    """Return the current device of an array module, cupy or (for tests) numpy."""
    return Device(xp)


class Device(Machine):
    """The current device of an array module."""

    of_memory = " of device memory"
    # Of the order of an A100 or H100 in double precision, and fixed, like those of the processor. Bytes: U is in double
    # precision here, which the model of cost does not know; half the bandwidth says the same.
    rates = Rates(factor=30e12, entries=15e9, blas=30e12, kernels=15e12, bytes=1e12)
    compares = False

    def __init__(self, xp: ModuleType) -> None:
        self._xp = xp

    def limit(self, max_memory: float | None) -> float:
        """Return the bytes that are free on the device, or the limit given if that is less."""
        release(self._xp)
        free = float(free_memory(self._xp))
        return free if max_memory is None else min(free, max_memory * 2**30)

    def factor(
        self,
        training: TrainingSet,
        rows: Coordinates,
        blocks: Array,
        progress: Progress | None = None,
        on_assembled: Callable[[], None] | None = None,
    ) -> Factor | None:
        """Assemble and factor a full square matrix, in place."""
        return cholesky.factor(training, rows, blocks, progress, on_assembled, xp=self._xp)

    def closed_form_memory(self, equations: TrainingEquations) -> int:
        """Return the bytes of device memory that the closed form needs; see `cholesky.memory_estimate`."""
        training = equations.training
        sizes = (training.n_train, training.n_atoms, training.n_perms)
        return cholesky.memory_estimate(*sizes, equations.periodic, training.energies)

    def operator(self, training: TrainingSet) -> KernelOperator:
        """Return K as products of large matrices."""
        return KernelOperator(training, xp=self._xp)

    def preconditioner(
        self,
        training: TrainingSet,
        lam: float,
        points: IntArray,
        columns: Sequence[npt.ArrayLike],
        progress: Progress | None = None,
    ) -> preconditioner.Preconditioner:
        """Build the preconditioner on the device, where it stays."""
        return preconditioner.build(training, lam, points, columns, progress, xp=self._xp)

    def preconditioner_memory(self, n_train: int, n_coord: int, n_columns: int) -> int:
        """Return the bytes of device memory that a preconditioner needs while it is built."""
        return preconditioner.memory(n_train, n_coord, n_columns)
