"""Closed-form training: one Cholesky factorisation, in place, in packed storage, of the reduced kernel matrix."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from .. import lapack
from ..descriptor import Array
from ..diagnostics import explain_singular
from ..errors import SolverError
from ..group import GroupTables
from ..kernel import Progress, assemble_packed, packed_size
from ..threads import resolve_n_threads
from .rigid import drop_rigid_motions

_log = logging.getLogger(__name__)

# If the matrix is not positive definite, lambda is raised by this factor, at most this many times.
_LAMBDA_STEP = 10.0
_LAMBDA_TRIES = 6


@dataclass(frozen=True)
class ClosedFormSolution:
    """Coefficients and the regularisation that gave them.

    Attributes
    ----------
    alphas_F : ndarray, shape (3 N M,)
        Coefficients of least norm.
    lam : float
        The lambda used: the one asked for unless the matrix was not positive definite with it.
    alphas_E : ndarray, shape (M,), or None
        Coefficients of the energy constraints, if there are any.
    """

    alphas_F: Array
    lam: float
    alphas_E: Array | None = None


def memory_estimate(
    n_train: int, n_atoms: int, n_perms: int = 1, periodic: bool = False, energies: bool = False
) -> int:
    """Return the bytes that the closed form needs: the packed matrix, descriptors and blocks of the reduction."""
    n_kept = max(3 * n_atoms - (3 if periodic else 6), 1) + int(energies)
    n_desc = n_atoms * (n_atoms - 1) // 2
    matrix = packed_size(n_train * n_kept)
    blocks = 2 * n_train * n_kept**2
    descriptors = 6 * n_train * n_desc
    scratch = 8 * (24 * n_atoms**2 + 6 * n_perms * n_atoms + 9 * n_atoms)
    group = 5 * n_perms * n_atoms**2  # index tables: they count for groups of thousands
    return 8 * (matrix + blocks + descriptors + scratch + group)


def solve_closed_form(
    R: Array,
    R_desc: Array,
    R_d_desc: Array,
    tables: GroupTables,
    sig: float,
    lam: float,
    y: Array,
    periodic: bool = False,
    n_threads: int | None = None,
    assembly_progress: Progress | None = None,
    on_solving: Callable[[], None] | None = None,
    y_E: Array | None = None,
) -> ClosedFormSolution:
    """Solve (-K + lam I) x = y and return alpha = -x.

    Parameters
    ----------
    R : ndarray, shape (M, N, 3)
        Training geometries.
    R_desc, R_d_desc : ndarray, shapes (M, D) and (M, D, 3)
        Their descriptors and compressed Jacobians.
    tables : GroupTables
        The permutation group.
    sig, lam : float
        Length scale and regularisation.
    y : ndarray, shape (3 N M,)
        Scaled forces.
    periodic : bool
        Whether the descriptors were made with a lattice.
    n_threads : int, optional
        Number of threads, also of BLAS; all by default.
    assembly_progress : callable, optional
        Called with (done, total) while the matrix is assembled.
    on_solving : callable, optional
        Called once the matrix is there.
    y_E : ndarray, shape (M,), optional
        Scaled negative energies, to constrain energies point by point.

    Returns
    -------
    ClosedFormSolution

    Raises
    ------
    SolverError
        If the matrix stays indefinite with the largest lambda tried.
    """
    threads = resolve_n_threads(n_threads)
    energies = y_E is not None
    labels = y.reshape(len(R), -1)
    if y_E is not None:
        labels = np.column_stack([labels, y_E])
    with threadpool_limits(limits=1, user_api="blas"):  # small matrices: threads would only wait
        reduction = drop_rigid_motions(R, periodic, energies)
        rhs = reduction.reduce(labels)
    blocks = reduction.padded_gram_inverse()
    n = reduction.rows.size

    def solve(lam: float) -> Array | None:
        matrix = assemble_packed(R_desc, R_d_desc, tables, sig, reduction.rows, -1.0, threads, assembly_progress)
        if on_solving is not None:
            on_solving()
        lapack.add_blocks(matrix, n, reduction.rows.begin, lam * blocks)
        z = rhs.copy()
        with threadpool_limits(limits=threads, user_api="blas"):
            solved = lapack.cholesky(matrix, n) == 0 and lapack.solve(matrix, n, z) == 0
        return z if solved else None

    z, lam = solve_with_rising_lambda(solve, lam, R_desc)
    alphas = -reduction.expand(z, labels.shape[1]).reshape(labels.shape)
    n_coord = 3 * R.shape[1]
    return ClosedFormSolution(alphas[:, :n_coord].ravel(), lam, alphas[:, n_coord].copy() if energies else None)


def solve_with_rising_lambda(solve: Callable[[float], Array | None], lam: float, R_desc: Array) -> tuple[Array, float]:
    """Solve with the smallest lambda that makes the matrix positive definite: `lam`, or ten times that, and so on.

    Parameters
    ----------
    solve : callable
        Returns the solution for a lambda, or None if the matrix is not positive definite with it. Its matrix is gone
        when it returns, so that no two are held at once.
    lam : float
        The first lambda.
    R_desc : ndarray, shape (M, D)
        Descriptors, to name the likely cause of a failure.

    Returns
    -------
    z : ndarray
        The solution.
    lam : float
        The lambda that gave it.

    Raises
    ------
    SolverError
        If the matrix stays indefinite with the largest lambda tried.
    """
    for attempt in range(_LAMBDA_TRIES + 1):
        z = solve(lam)
        if z is not None and np.isfinite(z).all():
            return z, lam
        if attempt < _LAMBDA_TRIES:
            raised = max(lam, 1e-15) * _LAMBDA_STEP
            _log.warning("%s Trying lambda = %.0e.", explain_singular(R_desc, lam), raised)
            lam = raised
    raise SolverError(f"{explain_singular(R_desc, lam)} No larger lambda is tried by itself.")
