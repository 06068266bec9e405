"""The kernel matrix as an operator on a device; the twin of `fastgdml.operator`.

K v is the prediction for the training geometries with coefficients v. Vectors come from the host and go back there:
they are short beside the work of a product.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import repeat
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import InsufficientMemoryError
from ..model_arrays import ModelArrays
from ..training_set import TrainingSet
from ..types import Array
from .arrays import to_numpy
from .batches import Ranges, work_through
from .bulk import Bulk
from .model import DeviceModel


class KernelOperator:
    """Computes K v for a training set by products of large matrices.

    Parameters
    ----------
    training : TrainingSet
        What K is made of.
    xp : module
        numpy or cupy.
    """

    def __init__(self, training: TrainingSet, *, xp: ModuleType) -> None:
        self._xp, self._energies = xp, training.energies
        self._n_atoms, self._n_perms = training.n_atoms, training.n_perms
        self._x, self._g = (xp.asarray(array, dtype=xp.float64) for array in (training.x, training.g))
        self._a, self._b = (xp.asarray(atom) for atom in np.tril_indices(self._n_atoms, -1))
        # A model whose coefficients are replaced at each product.
        z, x = np.zeros(self._n_atoms, dtype=int), training.x
        arrays = ModelArrays(z, training.tables.pair, x, np.zeros_like(x), None, float(training.sig), 1.0, 0.0)
        self._model = DeviceModel(arrays, xp)
        self._bulk = Bulk(self._model)

    @property
    def flops(self) -> float:
        """Operations of one product: four products of matrices, and about 60 for each weight."""
        n_train, n_desc = self._x.shape
        return float(n_train**2 * self._n_perms * (8.0 * n_desc + 60.0))

    def __call__(self, v: Array) -> Array:
        """Return K v, shape (n,), of v (n,): point by point, 3 N coordinates and perhaps the energy."""
        parts = self._xp.asarray(v.reshape(len(self._x), -1))
        forces = parts[:, : 3 * self._n_atoms].reshape(len(parts), self._n_atoms, 3)
        # J v, as in `fastgdml.descriptor.jacobian_dot`. It stays on the device.
        J_v = (self._g * (forces[:, self._b] - forces[:, self._a])).sum(axis=2)
        alphas_E = v.reshape(len(self._x), -1)[:, -1] if self._energies else None
        self._model.set_coefficients(J_v, alphas_E)
        product = self._xp.empty(parts.shape)

        def compute(begin: int, end: int) -> Any:
            return self._bulk.predict(self._x[begin:end], self._g[begin:end], False)

        def collect(begin: int, end: int, predicted: Any, stream: Any) -> None:
            E, F, _ = predicted
            product[begin:end, : 3 * self._n_atoms] = F
            if self._energies:
                product[begin:end, -1] = -E

        size = self._bulk.batch_size(len(self._x))
        try:
            work_through(Ranges(len(self._x)), size, repeat(nullcontext()), compute, collect, self._xp)
        except MemoryError:
            raise InsufficientMemoryError(
                f"The device has no room for the product of the kernel matrix with a vector: one of {len(self._x)} "
                f"training points needs {self._bulk.bytes_per_geometry / 2**20:.0f} MB. Free memory of the device, or "
                "give a smaller limit (max_memory, -m), so that the preconditioner leaves more."
            ) from None
        return to_numpy(product).ravel()
