"""A device as what the solvers run on; the twin of `fastgdml.solvers.processor`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy.typing as npt

from ..kernel import Coordinates
from ..solvers.cost import Rates
from ..solvers.equations import TrainingEquations
from ..solvers.machine import Factor, Machine
from ..training_set import TrainingSet
from ..types import Array, IntArray, Progress
from . import cholesky, preconditioner
from .arrays import free_memory, on_device, release, to_numpy, visible_devices
from .devices import DividedTraining
from .operator import KernelOperator

# Another device takes part in an iteration if it has this share of the free memory of the first one.
_MEMORY_SHARE = 0.9


def device(xp: ModuleType) -> Machine:
    """Return the current device of an array module, cupy or (for tests) numpy, with others to help it."""
    return Device(xp)


class Device(Machine):
    """The current device of an array module. In an iteration all that are visible share the rows of K."""

    of_memory = " of device memory"
    # Of the order of an A100 or H100 in double precision, and fixed, like those of the processor.
    rates = Rates(
        factor=30e12, entries=15e9, columns=15e9, blas=30e12, blocks=1e12, kernels=15e12, bytes=2e12, element=4.0,
        begin=0.02, turn=1e-3,
    )  # fmt: skip
    compares = False

    def __init__(self, xp: ModuleType) -> None:
        self.xp = xp
        self._kept: DividedTraining | None = None

    def limit(self, max_memory: float | None) -> float:
        """Return the bytes that are free on the device, or the limit given if that is less."""
        release(self.xp)
        free = float(free_memory(self.xp))
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
        cholesky.require_memory(training, rows, blocks, self.xp)
        here = self._on_devices(training, several=False).here[0]
        return cholesky.factor(here, rows, blocks, progress, on_assembled, xp=self.xp)

    def closed_form_memory(self, equations: TrainingEquations, keeps_factor: bool = True) -> int:
        """Return the bytes of device memory that the closed form needs; see `cholesky.memory_estimate`."""
        training = equations.training
        sizes = (training.n_train, training.n_atoms, training.n_perms)
        return cholesky.memory_estimate(*sizes, equations.periodic, training.energies)

    def to_host(self, vector: Any) -> Array:
        """Copy a vector of the device to the host."""
        return to_numpy(vector)

    def operator(self, training: TrainingSet) -> KernelOperator:
        """Return K as products of large matrices."""
        return KernelOperator(self._on_devices(training))

    def preconditioner(
        self,
        training: TrainingSet,
        lam: float,
        points: IntArray,
        columns: Sequence[npt.ArrayLike],
        progress: Progress | None = None,
    ) -> preconditioner.Preconditioner:
        """Build the preconditioner on the devices, where it stays."""
        return preconditioner.build(self._on_devices(training), lam, points, columns, progress)

    def preconditioner_memory(self, n_train: int, n_coord: int, n_columns: int) -> int:
        """Return the bytes of memory of the first device that a preconditioner needs while it is built."""
        return preconditioner.memory(-(-n_train // len(self._helpers)), n_coord, n_columns)

    @cached_property
    def _helpers(self) -> list[int]:
        """The devices of an iteration, the current one first."""
        first, *others = visible_devices(self.xp)
        least = _MEMORY_SHARE * self.limit(None)
        return [first, *(number for number in others if self._free(number) >= least)]

    def _free(self, number: int) -> float:
        with on_device(number, self.xp):
            return self.limit(None)

    def _on_devices(self, training: TrainingSet, several: bool = True) -> DividedTraining:
        """Return a training set on the devices of an iteration, or at least on the first; the last one is kept."""
        kept, numbers = self._kept, self._helpers if several else visible_devices(self.xp)[:1]
        if kept is None or kept.training is not training or len(kept.devices) < min(len(numbers), training.n_train):
            self._kept = kept = None  # its memory comes first
            self._kept = kept = DividedTraining.of(training, self.xp, numbers)
        return kept
