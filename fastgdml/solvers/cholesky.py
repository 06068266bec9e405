"""Closed-form training: one Cholesky factorisation of the kernel matrix without rigid motions, on any machine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..diagnostics import explain_singular
from ..errors import SolverError
from ..threads import blas_threads
from ..types import Array, Progress
from .equations import TrainingEquations
from .machine import Factor, Machine
from .rigid import Reduction

_log = logging.getLogger(__name__)

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
    training, lam = equations.training, equations.lam
    reduction = equations.reduction
    rhs = _reduced(reduction, equations.by_point(equations.y, equations.y_E))
    blocks = reduction.padded_gram_inverse()
    for attempt in range(_LAMBDA_TRIES + 1):
        factor = machine.factor(training, reduction.rows, lam * blocks, progress, on_assembled)
        if factor is not None:
            z = factor.solve(rhs)
            if np.isfinite(z).all():
                return ClosedForm(equations, lam, reduction, factor, z, *_coefficients(equations, reduction, z))
        # Memory is estimated for one matrix: this one must be gone before the next is assembled.
        del factor
        if attempt < _LAMBDA_TRIES:
            raised = max(lam, 1e-15) * _LAMBDA_STEP
            _log.warning("%s Trying lambda = %.0e.", explain_singular(training.x, lam), raised)
            lam = raised
    raise SolverError(f"{explain_singular(training.x, lam)} No larger lambda is tried by itself.")


def _reduced(reduction: Reduction, labels: Array) -> Array:
    with blas_threads(1):
        return reduction.reduce(labels)


def _coefficients(equations: TrainingEquations, reduction: Reduction, z: Array) -> tuple[Array, Array | None]:
    n_coord = equations.training.n_coord
    return equations.split(-reduction.expand(z, n_coord).reshape(-1, n_coord))
