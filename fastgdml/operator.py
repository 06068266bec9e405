"""The kernel matrix, or some of its rows, as an operator: K v without K.

K v is the prediction for the training geometries with coefficients v, so the prediction kernel computes it in
9 M^2 sum_h n_h D_h operations (h: classes of pairs) and no memory beyond the training data.
"""

from __future__ import annotations

import numpy as np

from .native import _core
from .threads import resolve_n_threads
from .training_set import TrainingSet
from .types import Array


class KernelOperator:
    """Computes K v for a training set, or the rows of some of its points.

    Not to be shared between threads: it holds the coefficients that it works on.

    Parameters
    ----------
    training : TrainingSet
        What K is made of.
    n_threads : int, optional
        Number of threads; all by default.
    points : range, optional
        The training points whose rows are wanted; all by default.
    """

    def __init__(self, training: TrainingSet, n_threads: int | None = None, points: range | None = None) -> None:
        self._x = np.ascontiguousarray(training.x, dtype=np.float64)
        self._g = np.ascontiguousarray(training.g, dtype=np.float64)
        self._n_atoms, self._n_perms, self._energies = training.n_atoms, training.n_perms, training.energies
        self._n_threads = resolve_n_threads(n_threads)
        # A model whose coefficients are replaced at each product.
        self._model = _core.model_from_arrays(
            np.zeros(self._n_atoms, dtype=np.int32),
            np.ascontiguousarray(training.tables.pair, dtype=np.int32),
            self._x,
            None,
            None,
            training.energies,
            training.sig,
            1.0,
            0.0,
        )
        rows = slice(None) if points is None else slice(points.start, points.stop)
        self._x_rows, self._g_rows = self._x[rows], self._g[rows]
        self._E = np.empty(len(self._x_rows))
        self._F = np.empty((len(self._x_rows), 3 * self._n_atoms))

    @property
    def flops(self) -> float:
        """Operations of one product: 9 for each pair and image, about 60 for each weight."""
        return float(len(self._x_rows)) * len(self._x) * (9.0 * self._model.n_pair_images + 60.0 * self._n_perms)

    def __call__(self, v: Array) -> Array:
        """Return K v, of v (n,): point by point, 3 N coordinates and perhaps the energy; n rows or those wanted."""
        parts = v.reshape(len(self._x), -1)
        forces = np.ascontiguousarray(parts[:, : 3 * self._n_atoms])
        energies = np.ascontiguousarray(parts[:, -1]) if self._energies else None
        self._model.set_jacobian_dot(self._g, forces, energies, self._n_threads)
        self._model.predict_descriptors(self._x_rows, self._g_rows, self._E, self._F, self._n_threads)
        if not self._energies:
            return self._F.ravel().copy()
        return np.hstack([self._F, -self._E[:, None]]).ravel()
