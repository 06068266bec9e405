"""Leave-one-out residuals of the closed form, and coefficients of jackknife samples, from one factorisation.

With the factored matrix M = A_kk + lam (B^T B)^-1 = L L^T of equation (1) of `rigid`, A = -K, labels w, z = M^-1 w, and
groups g of training points, the residuals of what is predicted for a group by a model that was trained without it are

    r_g = ([M^-1]_gg)^-1 z_g,      [M^-1]_gg = T_g^T T_g,   T_g the columns g of L^-1.                         (3)

The model without group g has the coefficients z - M^-1 (r_g at g), which are zero at g. A sample takes these changes of
all groups at once, with random signs eps_gs = +-1:

    dz_s = M^-1 (eps_gs r_g)_g = L^-T sum_g T_g eps_gs r_g.                                                    (4)

The mean square over s of what dz_s predicts is an unbiased estimate of the sum over groups of the squared changes that
leaving each out makes: the jackknife's variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import lapack
from ..errors import SolverError, UsageError
from ..threads import blas_threads
from ..types import Array, IntArray
from .cholesky import ClosedForm

# Fixed: the samples of a model follow from its training points.
_SEED = 0


@dataclass(frozen=True)
class Jackknife:
    """What leaving training points out does. S samples, M training points of N atoms.

    Attributes
    ----------
    alphas_F : ndarray, shape (S, 3 N M)
        Coefficients of the samples, in the scale of those of the model.
    alphas_E : ndarray, shape (S, M), or None
        Those of energy constraints, if there are any.
    residuals : ndarray, shape (M, 3 N)
        Forces of each point, true minus predicted without its group, in the scale of the labels.
    """

    alphas_F: Array
    alphas_E: Array | None
    residuals: Array


def groups_of(groups: npt.ArrayLike | None, n_train: int) -> IntArray:
    """Return the group of each training point, numbered from 0; each is its own by default.

    Raises
    ------
    UsageError
        If there is not one number for each point, or there are fewer than two groups.
    """
    if groups is None:
        numbers = np.arange(n_train)
    else:
        given = np.asarray(groups)
        if given.shape != (n_train,):
            raise UsageError(f"std_groups has shape {given.shape}; one number for each of {n_train} points needed.")
        _, numbers = np.unique(given, return_inverse=True)
    if numbers.max(initial=0) < 1:
        raise UsageError("Standard deviations need at least two training points in two groups.")
    return numbers


def jackknife(found: ClosedForm, n_samples: int, groups: IntArray) -> Jackknife:
    """Compute residuals and samples. The factor is replaced by its inverse: `found` can solve no more.

    Parameters
    ----------
    found : ClosedForm
        The solution.
    n_samples : int
        Number of samples S.
    groups : ndarray of int, shape (M,)
        Group of each training point, from `groups_of`; groups are left out as wholes.

    Raises
    ------
    SolverError
        If the factor cannot be inverted.
    """
    training, reduction = found.equations.training, found.reduction
    begin, n = reduction.rows.begin, reduction.rows.size
    inverse = found.factor.invert()
    signs = np.random.default_rng(_SEED).choice([-1.0, 1.0], (groups.max() + 1, n_samples))

    def columns(g: int) -> tuple[IntArray, Array]:
        """Return the rows of a group, and T_g (n, n_g)."""
        points = np.flatnonzero(groups == g)
        parts = [inverse(int(begin[i]), int(begin[i + 1])) for i in points]
        return np.concatenate([np.arange(begin[i], begin[i + 1]) for i in points]), np.hstack(parts)

    residual = np.empty(n)
    product = np.zeros((n, n_samples))
    samples = np.empty((n, n_samples))
    with blas_threads(1):  # thin matrices: threads would only wait
        for g in range(len(signs)):
            rows, T = columns(g)
            gram = np.zeros((len(rows), len(rows)), order="F")
            lapack.add_gram(T, gram, 1)
            if lapack.cholesky_dense(gram, 1) != 0:
                raise SolverError("The residuals of leaving points out are undetermined: raise lambda.")
            residual[rows] = lapack.solve_cholesky(gram, found.z[rows], 1)
            product += np.outer(T @ residual[rows], signs[g])
        for g in range(len(signs)):
            rows, T = columns(g)
            samples[rows] = T.T @ product

    n_coord, n_atoms3 = training.n_coord, 3 * training.n_atoms
    split = [found.coefficients(samples[:, s]) for s in range(n_samples)]
    alphas_E = None if split[0][1] is None else np.array([alphas for _, alphas in split])
    residuals = np.zeros((training.n_train, n_coord))
    for i, (kept, dropped, C) in enumerate(zip(reduction.kept, reduction.dropped, reduction.C, strict=True)):
        r = residual[begin[i] : begin[i + 1]]
        residuals[i, kept], residuals[i, dropped] = r, C @ r
    return Jackknife(np.array([alphas for alphas, _ in split]), alphas_E, residuals[:, :n_atoms3])
