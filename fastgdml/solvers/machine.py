"""What the solvers run on: the processor (`processor`), or a device (`fastgdml.gpu.machine`)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy.typing as npt

from ..errors import UsageError
from ..kernel import Coordinates
from ..training_set import TrainingSet
from ..types import Array, IntArray, Progress
from .cost import Rates
from .equations import TrainingEquations


class Operator(Protocol):
    """The kernel matrix as a function: see `fastgdml.operator.KernelOperator`."""

    @property
    def flops(self) -> float:
        """Operations of one product."""

    def __call__(self, v: Any) -> Any:
        """Return K v, shape (n,), of v (n,), where v is: point by point, n_coord elements each."""


class Preconditioner(Protocol):
    """Nearly the inverse of -K + lam I as a function: see `fastgdml.solvers.preconditioner`."""

    def __call__(self, r: Any) -> Any:
        """Return P^-1 r, shape (n,), where r is."""

    def without(self, points: IntArray) -> Callable[[Any], Any]:
        """Return the same for the equations without some training points, of r that is zero there.

        What it returns at these points has no meaning.
        """


class Factor(ABC):
    """A Cholesky factor, in the memory of the machine that computed it.

    It takes the place of its matrix, so that the memory of one is held as long as this object lives.
    """

    @abstractmethod
    def solve(self, rhs: Array) -> Array:
        """Solve with the factored matrix.

        Parameters
        ----------
        rhs : ndarray, shape (n,) or (n, k)
            One right-hand side, or several as columns.

        Returns
        -------
        ndarray
            The solutions, in the shape of `rhs`.
        """

    def invert(self) -> Callable[[int, int], Array]:
        """Replace the factor L by its inverse; `solve` works no more.

        Returns
        -------
        callable
            (first, last) -> columns of L^-1 in this range, shape (n, last - first), zeros above the diagonal.

        Raises
        ------
        UsageError
            If this machine cannot.
        SolverError
            If the factor is singular.
        """
        raise UsageError("Standard deviations (n_std) need the processor: backend='cpu'.")


class Machine(ABC):
    """The parts that solvers are made of, on some hardware.

    Arguments and results lie on the host, but for the vectors of the iteration: those that operator and preconditioner
    take and return are arrays of `xp`, which `to_host` brings back.

    Attributes
    ----------
    xp : module
        The array module of the vectors of the iteration: numpy, or cupy.
    of_memory : str
        What messages add to "limit": nothing, or " of device memory".
    rates : Rates
        What the number of columns of the preconditioner follows from.
    compares : bool
        Whether 'auto' weighs the iteration against a closed form that fits; else it takes that.
    inverts : bool
        Whether factors can be inverted, which standard deviations by the closed form need.
    """

    xp: ModuleType
    of_memory: str
    rates: Rates
    compares: bool
    inverts: bool = False

    @abstractmethod
    def limit(self, max_memory: float | None) -> float:
        """Return the bytes that a solver may take, of a limit in GB (2**30 bytes); None: of what is free."""

    # ---- closed form ------------------------------------------------------------------------------------------------

    @abstractmethod
    def factor(
        self,
        training: TrainingSet,
        rows: Coordinates,
        blocks: Array,
        progress: Progress | None = None,
        on_assembled: Callable[[], None] | None = None,
    ) -> Factor | None:
        """Assemble and factor -K_rr + blockdiag(blocks), K_rr the kernel matrix over chosen coordinates.

        Parameters
        ----------
        training : TrainingSet
            What K is made of.
        rows : Coordinates
            The coordinates of each point that are rows and columns.
        blocks : ndarray, shape (M, m, m)
            What is added to the diagonal block of each point; blocks of fewer rows are padded.
        progress : callable, optional
            Called with (done, total) while the matrix is assembled.
        on_assembled : callable, optional
            Called once the matrix is there, before it is factored.

        Returns
        -------
        Factor, or None if the matrix is not positive definite.

        Raises
        ------
        InsufficientMemoryError
            If the machine knows that the matrix does not fit.
        """

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
        """Return the solution of one right-hand side (n,) with that matrix.

        It takes the memory of `closed_form_memory`, but up to `max_bytes` where it turns out to need more. Other
        arguments and errors as of `factor`.
        """
        factor = self.factor(training, rows, blocks, progress, on_assembled)
        return None if factor is None else factor.solve(rhs)

    @abstractmethod
    def closed_form_memory(self, equations: TrainingEquations, keeps_factor: bool = True) -> int:
        """Return the bytes that the closed form needs: with the factor, as of `factor`, or without, as of `solve`."""

    # ---- iteration --------------------------------------------------------------------------------------------------

    @abstractmethod
    def to_host(self, vector: Any) -> Array:
        """Return the values of a vector of the iteration as a NumPy array."""

    @abstractmethod
    def operator(self, training: TrainingSet) -> Operator:
        """Return K as an operator."""

    @abstractmethod
    def preconditioner(
        self,
        training: TrainingSet,
        lam: float,
        points: IntArray,
        columns: Sequence[npt.ArrayLike],
        progress: Progress | None = None,
    ) -> Preconditioner:
        """Return r -> P^-1 r, P nearly -K + lam I; arguments and errors as of `preconditioner.build`."""

    def iteration_memory(self, training: TrainingSet) -> int:
        """Return the bytes that an iteration needs whatever the number of columns.

        Descriptors, Jacobians, tiles, vectors, and what rigid motions are removed with.
        """
        n = training.n_train * training.n_coord
        return 8 * (6 * training.x.size + 12 * n + 6 * n * training.n_coord)

    @abstractmethod
    def preconditioner_memory(self, n_train: int, n_coord: int, n_columns: int) -> int:
        """Return the bytes that a preconditioner of `n_columns` columns needs while it is built."""
