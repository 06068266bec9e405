"""Closed-form training: one Cholesky factorisation of the kernel matrix without rigid motions, on any machine."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..diagnostics import explain_singular
from ..errors import SolverError
from ..threads import blas_threads
from ..types import Array, Progress
from .equations import TrainingEquations
from .machine import Factor, Machine
from .rigid import Reduction

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# If the matrix is not positive definite, lambda is raised by this factor, at most this many times.
_LAMBDA_STEP = 10.0
_LAMBDA_TRIES = 6


@dataclass(frozen=True)
class ClosedForm:
    """The training equations, factored and solved. It holds the factor, for other right-hand sides.

    Attributes
    ----------
    equations : TrainingEquations
        The equations.
    lam : float
        The lambda used: that of the equations unless the matrix was not positive definite with it.
    reduction : Reduction
        The coordinates that are left without rigid motions: the rows of the factor.
    factor : Factor
        Of -K_kk + lam (B^T B)^-1, equation (1) of `fastgdml.solvers.rigid`.
    z : ndarray, shape (n,)
        The solution of equation (1).
    alphas_F : ndarray, shape (3 N M,)
        Coefficients of the force constraints, those of least norm.
    alphas_E : ndarray, shape (M,), or None
        Coefficients of the energy constraints, if there are any.
    """

    equations: TrainingEquations
    lam: float
    reduction: Reduction
    factor: Factor
    z: Array
    alphas_F: Array
    alphas_E: Array | None

    def solve(self, y: Array, y_E: Array | None = None) -> tuple[Array, Array | None]:
        """Return the coefficients of other labels, in the form of those of the equations."""
        return self.coefficients(self.factor.solve(_reduced(self.reduction, self.equations.by_point(y, y_E))))

    def coefficients(self, z: Array) -> tuple[Array, Array | None]:
        """Return alphas_F and alphas_E of a solution of the reduced equations."""
        return _coefficients(self.equations, self.reduction, z)


def solve_closed_form(
    equations: TrainingEquations,
    machine: Machine,
    progress: Progress | None = None,
    on_assembled: Callable[[], None] | None = None,
) -> ClosedForm:
    """Solve with the smallest lambda that makes the matrix positive definite: that given, ten times that, and so on.

    Parameters
    ----------
    equations : TrainingEquations
        The equations.
    machine : Machine
        Where the matrix is assembled and factored. The reduction is made on the host.
    progress : callable, optional
        Called with (done, total) while the matrix is assembled.
    on_assembled : callable, optional
        Called once the matrix is there.

    Returns
    -------
    ClosedForm

    Raises
    ------
    InsufficientMemoryError
        If the matrix does not fit into the memory of the machine.
    SolverError
        If the matrix stays indefinite with the largest lambda tried.
    """
    reduction = equations.reduction
    rhs = _reduced(reduction, equations.by_point(equations.y, equations.y_E))

    def attempt(blocks: Array) -> tuple[Factor, Array] | None:
        factor = machine.factor(equations.training, reduction.rows, blocks, progress, on_assembled)
        if factor is None:
            return None
        z = factor.solve(rhs)
        return (factor, z) if np.isfinite(z).all() else None

    lam, (factor, z) = _with_least_lambda(equations, attempt)
    return ClosedForm(equations, lam, reduction, factor, z, *_coefficients(equations, reduction, z))


@dataclass(frozen=True)
class Coefficients:
    """The solution of the training equations, without the factor that led to it.

    Attributes
    ----------
    lam, alphas_F, alphas_E
        As of `ClosedForm`.
    """

    lam: float
    alphas_F: Array
    alphas_E: Array | None


def solve_once(
    equations: TrainingEquations,
    machine: Machine,
    progress: Progress | None = None,
    on_assembled: Callable[[], None] | None = None,
    max_bytes: float = math.inf,
) -> Coefficients:
    """Solve for the labels alone, which is faster: see `Machine.solve`. All else as of `solve_closed_form`."""
    reduction = equations.reduction
    rhs = _reduced(reduction, equations.by_point(equations.y, equations.y_E))

    def attempt(blocks: Array) -> Array | None:
        z = machine.solve(equations.training, reduction.rows, blocks, rhs, progress, on_assembled, max_bytes)
        return z if z is not None and np.isfinite(z).all() else None

    lam, z = _with_least_lambda(equations, attempt)
    return Coefficients(lam, *_coefficients(equations, reduction, z))


def _with_least_lambda(equations: TrainingEquations, attempt: Callable[[Array], _T | None]) -> tuple[float, _T]:
    """Return what an attempt with lam (B^T B)^-1 comes to, and the first lambda for which it comes to anything."""
    lam, blocks = equations.lam, equations.reduction.padded_gram_inverse()
    for left in reversed(range(_LAMBDA_TRIES + 1)):
        # Memory is estimated for one matrix: that of an attempt is gone when it has failed.
        found = attempt(lam * blocks)
        if found is not None:
            return lam, found
        if left:
            raised = max(lam, 1e-15) * _LAMBDA_STEP
            _log.warning("%s Trying lambda = %.0e.", explain_singular(equations.training.x, lam), raised)
            lam = raised
    raise SolverError(f"{explain_singular(equations.training.x, lam)} No larger lambda is tried by itself.")


def _reduced(reduction: Reduction, labels: Array) -> Array:
    with blas_threads(1):
        return reduction.reduce(labels)


def _coefficients(equations: TrainingEquations, reduction: Reduction, z: Array) -> tuple[Array, Array | None]:
    n_coord = equations.training.n_coord
    return equations.split(-reduction.expand(z, n_coord).reshape(-1, n_coord))
