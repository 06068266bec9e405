"""Solutions without folds of the training points, for the iterative solver: samples and residuals of the jackknife.

There is no factor whose inverse has the residuals of all points, as in `jackknife`. So the training points are divided
into K folds, and the equations A x = y, A = -K + lam I, are solved again without each of them. With F the rows of fold
k and S the others, the member x^k is zero at F and

    A_SS x^k_S = y_S.                                                                                           (1)

The steps of conjugate gradients for it are those for A with what they make of F set to zero, and begin with x. With
the preconditioner P = L L^T + B of A, P_SS = L_S L_S^T + B_S: of its inverse only the small matrix
I + U^T U - U_F^T U_F has to be factored anew. (P^-1)_SS is no substitute: it belongs to the equations in which F is
known, and leaves as many large eigenvalues as F has rows. The residual of what the member predicts for its fold is

    r_F = (y - A x^k)_F.                                                                                        (2)

The variance of a prediction f(x), linear in x, is by the jackknife over K groups (K - 1) / K sum_k (f(x^k) - f(x))^2,
the mean over k of f(dx_k)^2 with the samples

    dx_k = (K - 1)^(1/2) (x^k - x).                                                                             (3)
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import numpy as np

from ..errors import SolverError
from ..progress import Callback, Step
from ..threads import blas_threads
from ..types import Array, IntArray
from .conjugate_gradients import iterate
from .iterative import IterativeSolution, IterativeSolver
from .jackknife import Jackknife

_log = logging.getLogger(__name__)

# Fixed: the folds follow from the training points.
_SEED = 0
# The residual of a member may be so many times that of the solution: it is the difference that counts, to some percent.
_LOOSER = 3.0


def folds_of(groups: IntArray, n_folds: int) -> list[IntArray]:
    """Return the points of each fold: groups as wholes, drawn at random, in folds of nearly one size.

    Parameters
    ----------
    groups : ndarray of int, shape (M,)
        Group of each point, from `jackknife.groups_of`.
    n_folds : int
        Number of folds; as many as there are groups, if these are fewer.
    """
    sizes = np.bincount(groups)
    drawn = np.random.default_rng(_SEED).permutation(len(sizes))
    fold, filled = np.empty(len(sizes), dtype=np.int64), np.zeros(min(n_folds, len(sizes)), dtype=np.int64)
    for group in drawn[np.argsort(-sizes[drawn], kind="stable")]:  # large ones first
        fold[group] = filled.argmin()
        filled[fold[group]] += sizes[group]
    return [np.flatnonzero(fold[groups] == k) for k in range(len(filled))]


def leave_out(
    iteration: IterativeSolver,
    found: IterativeSolution,
    folds: list[IntArray],
    tol: float,
    max_iter: int | None = None,
    callback: Callback | None = None,
) -> Jackknife:
    """Solve without each fold.

    Parameters
    ----------
    iteration : IterativeSolver
        What found the solution, with its preconditioner.
    found : IterativeSolution
        The solution.
    folds : list of ndarray of int
        From `folds_of`.
    tol : float
        Tolerance of the solution; three times as much will do for the difference.
    max_iter : int, optional
        Most steps for a fold.
    callback : callable, optional
        Progress; see `fastgdml.progress.Callback`.

    Raises
    ------
    SolverError
        If an iteration breaks down.
    """
    equations, n_coord, n_folds = iteration.equations, iteration.equations.training.n_coord, len(folds)
    x, bound = iteration.vector(found.alphas_F, found.alphas_E), _LOOSER * tol * found.norm_y
    max_iter = 10 * iteration.n if max_iter is None else max_iter
    samples, residuals = np.empty((n_folds, iteration.n)), np.empty((iteration.n_train, n_coord))
    step = Step(callback, f"Leaving out {n_folds} folds of training points (standard deviations)", n_folds)
    steps, missed, began = 0, [], time.perf_counter()
    for k, points in enumerate(folds):
        for member in _members(iteration, x, points):
            if not np.isfinite(member.residual):
                raise SolverError(f"Conjugate gradients broke down without fold {k + 1} of the training points.")
            if member.residual <= bound or member.step >= max_iter:
                break
            step(k, n_folds, f"fold {k + 1}, step {member.step}, residual {member.residual / found.norm_y:.1e}")
        if member.residual > bound:
            missed.append(member.residual / found.norm_y)
        steps += member.step
        left = iteration.machine.to_host(iteration.y - iteration.product_with(member.x)).reshape(residuals.shape)
        residuals[points] = left[points]
        samples[k] = math.sqrt(n_folds - 1) * iteration.machine.to_host(member.x - x)
    step.done(f"{steps} steps, {time.perf_counter() - began:.1f} s", warn=bool(missed))
    _log.info("%d solutions without a fold took %d steps, the model %d.", n_folds, steps, found.steps)
    if missed:
        _log.warning(
            "%d of %d solutions for standard deviations stopped with relative residuals up to %.1e; %.0e is wanted.",
            len(missed),
            n_folds,
            max(missed),
            _LOOSER * tol,
        )
    split = [equations.split(-sample.reshape(residuals.shape)) for sample in samples]
    alphas_E = [alphas for _, alphas in split if alphas is not None]
    return Jackknife(
        np.array([alphas for alphas, _ in split]),
        np.array(alphas_E) if alphas_E else None,
        np.ascontiguousarray(residuals[:, : 3 * equations.training.n_atoms]),
    )


def _members(iteration: IterativeSolver, x: Any, points: IntArray) -> Any:
    """Yield the iterates of equation (1)."""
    xp, n_coord = iteration.machine.xp, iteration.equations.training.n_coord
    kept: Array = np.ones((iteration.n_train, n_coord))
    kept[points] = 0.0
    E = xp.asarray(kept.ravel())
    assert iteration.preconditioner is not None
    P = iteration.preconditioner.without(points)
    with blas_threads(1):  # the products are ours; BLAS would only get in the way
        yield from iterate(lambda v: E * iteration.product_with(v), lambda r: E * P(r), E * iteration.y, E * x, xp)
