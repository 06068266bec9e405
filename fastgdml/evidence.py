"""How well weights of pairs suit a training set, without other data: two objectives with exact gradients.

The descriptor is x_k = w_k / r_k, with sigma = 1: a common weight is 1 / sigma, and theta = log w are the parameters.
With the matrix of the training equations without rigid motions (`fastgdml.solvers.rigid`), and m its order,

    C = -K_kk(theta) + lam S,    z = S B^T y,    alpha = C^-1 z,    S = (B^T B)^-1,                      (1)

the forces are a Gaussian process whose covariance is s2 C, in an orthonormal basis of what is not rigid but for the
constant log|S|. The scale s2 follows from the labels, s2 = z^T alpha / m, and with it the negative logarithm of the
marginal likelihood for each label is (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, eq. 5.8)

    f = log(s2) / 2 + log|C| / (2 m),        df = tr(A dC),   A = (C^-1 - alpha alpha^T / s2) / (2 m).    (2)

Leaving out one geometry i at a time leaves residuals r_i (ibid., eq. 5.12, by blocks), whose mean square of all 3N
forces, with G_i = B_i^T B_i, gives the other objective:

    r_i = ([C^-1]_ii)^-1 alpha_i,    f = log(sum_i r_i^T G_i r_i / n) / 2,                               (3)
    q_i = ([C^-1]_ii)^-1 G_i r_i / (sum_j r_j^T G_j r_j),
    A = sym( sum_i ([C^-1]_:i r_i) ([C^-1]_:i q_i)^T - alpha (C^-1 q)^T ).                               (4)

The gradient by theta is -tr(A dK/dtheta) for both (src/trace.c); its cost is small beside that of C^-1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from .descriptor import weighted
from .kernel import assemble_selected
from .native import _core
from .solvers.rigid import Reduction, drop_rigid_motions
from .threads import blas_threads
from .training_set import TrainingSet
from .types import Array

Kind = Literal["likelihood", "leave-one-out"]


@dataclass(frozen=True)
class Value:
    """An objective at one theta.

    Attributes
    ----------
    f : float
        The objective, to be minimised; infinite where C is not positive definite.
    gradient : ndarray, shape (D,)
        Its derivatives by the logarithm of the weight of each pair.
    """

    f: float
    gradient: Array


class Evidence:
    """Objectives of the weights of pairs for a training set.

    Parameters
    ----------
    R, F : ndarray, shapes (M, N, 3)
        Geometries and forces.
    training : TrainingSet
        Their descriptors without weights; sigma and energies are not used.
    lam : float
        Regularisation.
    periodic : bool
        Whether the descriptors were made with a lattice.
    kind : {'likelihood', 'leave-one-out'}
        Equation (2) or (3).
    n_threads : int
        Number of threads.
    """

    def __init__(
        self,
        R: Array,
        F: Array,
        training: TrainingSet,
        lam: float,
        periodic: bool = False,
        kind: Kind = "likelihood",
        n_threads: int = 1,
    ) -> None:
        import scipy.linalg  # noqa: F401 (here, so that its BLAS is there when the number of threads is limited)

        self._training = replace(training, sig=1.0, energies=False)
        self._lam, self._kind, self._n_threads = lam, kind, n_threads
        with blas_threads(1):
            self._reduction: Reduction = drop_rigid_motions(R, periodic)
            self._z = self._reduction.reduce(F.ravel() / np.std(F))
        self._n_labels = F.size

    @property
    def order(self) -> int:
        """Order of the matrix C."""
        return self._reduction.rows.size

    def __call__(self, theta: Array) -> Value:
        """Return the objective for logarithms of weights theta (D,), which the group leaves as they are."""
        x, g = weighted(self._training.x, self._training.g, np.exp(theta))
        training = replace(self._training, x=x, g=g)
        C = assemble_selected(training, self._reduction.rows, self._n_threads)
        np.negative(C, out=C)
        begin = self._reduction.rows.begin
        for i, block in enumerate(self._reduction.gram_inverse):
            part = slice(begin[i], begin[i + 1])
            C[part, part] += self._lam * block
        with blas_threads(self._n_threads):
            found = self._objective(C)
        if found is None:
            return Value(np.inf, np.zeros_like(theta))
        f, A = found
        rows = self._reduction.rows
        by_pair = _core.trace_derivatives(x, g, training.tables, 1.0, rows.begin, rows.coord, A, self._n_threads)
        return Value(f, -by_pair)

    def _objective(self, C: Array) -> tuple[float, Array] | None:
        """Return f and A, whose lower triangle counts, in the memory of C; None if C is not positive definite."""
        from scipy.linalg import blas, lapack

        factor, info = lapack.dpotrf(C, lower=1, overwrite_a=1, clean=0)
        if info:
            return None
        log_det = 2 * float(np.log(np.diag(factor)).sum())
        alpha, _ = lapack.dpotrs(factor, self._z, lower=1)
        inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
        if not (np.isfinite(alpha).all() and float(self._z @ alpha) > 0):
            return None
        m = self.order
        if self._kind == "likelihood":
            s2 = float(self._z @ alpha) / m
            inverse *= 0.5 / m
            A = blas.dsyr(-0.5 / (m * s2), alpha, lower=1, a=inverse, overwrite_a=1)
            return 0.5 * np.log(s2) + 0.5 * log_det / m, A
        return self._leave_one_out(inverse, alpha)

    def _leave_one_out(self, inverse: Array, alpha: Array) -> tuple[float, Array]:
        """Return equations (3) and (4)."""
        from scipy.linalg import blas

        begin = self._reduction.rows.begin
        parts = [slice(first, last) for first, last in pairwise(begin)]
        residuals, q, total = [], [], 0.0
        for part, gram_inverse in zip(parts, self._reduction.gram_inverse, strict=True):
            block = np.tril(inverse[part, part])
            block += np.tril(block, -1).T
            residual = np.linalg.solve(block, alpha[part])
            full = np.linalg.solve(gram_inverse, residual)  # G_i r_i
            residuals.append(residual)
            q.append(np.linalg.solve(block, full))
            total += float(residual @ full)
        # [C^-1]_:i r_i and [C^-1]_:i q_i as products with block-diagonal matrices (m, M)
        right = np.zeros((self.order, 2 * len(parts)), order="F")
        for i, part in enumerate(parts):
            right[part, i] = residuals[i]
            right[part, len(parts) + i] = q[i] / total
        columns = blas.dsymm(1.0, inverse, right, lower=1)
        U, V = columns[:, : len(parts)], columns[:, len(parts) :]
        # alpha (C^-1 q)^T as one more column: C^-1 q is the sum of those of V
        U = np.asfortranarray(np.column_stack([U, -alpha]))
        V = np.asfortranarray(np.column_stack([V, V.sum(axis=1)]))
        A = blas.dsyr2k(0.5, U, V, lower=1)
        return 0.5 * np.log(total / self._n_labels), A
