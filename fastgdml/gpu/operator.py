"""The kernel matrix as an operator on a device; the twin of `fastgdml.operator`.

K v is the prediction for the training geometries with coefficients v. Vectors come from the host and go back there: they
are short beside the work of a product.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ..descriptor import Array, n_atoms_of
from ..group import GroupTables
from .arrays import to_numpy
from .predict import GPUPredictor


class KernelOperator:
    """Computes K v for a training set by products of large matrices.

    Parameters
    ----------
    x, g : ndarray, shapes (M, D) and (M, D, 3)
        Descriptors and compressed Jacobians of the training points.
    tables : GroupTables
        The permutation group.
    sig : float
        Length scale.
    energies : bool
        Whether each point has 3 N + 1 coordinates, the last for its energy, instead of 3 N.
    n_threads : int, optional
        Has no effect here.
    xp : module
        numpy or cupy.
    """

    def __init__(
        self,
        x: Array,
        g: Array,
        tables: GroupTables,
        sig: float,
        energies: bool = False,
        n_threads: int | None = None,
        *,
        xp: ModuleType,
    ) -> None:
        self._xp, self._energies = xp, energies
        self._n_atoms = n_atoms_of(x.shape[1])
        self._n_perms = len(tables.perm)
        self._x, self._g = xp.asarray(x, dtype=xp.float64), xp.asarray(g, dtype=xp.float64)
        self._a, self._b = (xp.asarray(atom) for atom in np.tril_indices(self._n_atoms, -1))
        # A model whose coefficients are replaced at each product.
        pair_perms = np.argsort(tables.pair, axis=1)
        self._model = GPUPredictor(x, np.zeros_like(x), pair_perms, sig, 1.0, 0.0, xp=xp)

    @property
    def flops(self) -> float:
        """Operations of one product: four products of matrices, and about 60 for each weight."""
        n_train, n_desc = self._x.shape
        return float(n_train**2 * self._n_perms * (8.0 * n_desc + 60.0))

    def __call__(self, v: Array) -> Array:
        """Return K v, shape (n,), of v (n,): point by point, 3 N coordinates and perhaps the energy."""
        parts = self._xp.asarray(v.reshape(len(self._x), -1))
        forces = parts[:, : 3 * self._n_atoms].reshape(len(parts), self._n_atoms, 3)
        # J v, as in `fastgdml.descriptor.jacobian_dot`.
        J_v = (self._g * (forces[:, self._b] - forces[:, self._a])).sum(axis=2)
        if not self._energies:
            self._model.set_coefficients(J_v)
            return to_numpy(self._model.predict_descriptors(self._x, self._g)[1]).ravel()
        self._model.set_coefficients(J_v, parts[:, -1])
        E, F = (to_numpy(part) for part in self._model.predict_descriptors(self._x, self._g))
        return np.hstack([F, -E[:, None]]).ravel()
