"""The kernel matrix as an operator on devices; the twin of `fastgdml.operator`.

K v is the prediction for the training geometries with coefficients v. Each device predicts its part of them.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import repeat
from typing import Any

import numpy as np

from ..errors import InsufficientMemoryError
from ..model_arrays import ModelArrays
from .batches import Ranges, work_through
from .bulk import Bulk
from .devices import DividedTraining
from .model import DeviceModel


class KernelOperator:
    """Computes K v for a training set by products of large matrices.

    Parameters
    ----------
    divided : DividedTraining
        What K is made of.
    """

    def __init__(self, divided: DividedTraining) -> None:
        self._divided = divided
        self._rows = []
        for k in range(len(divided.devices)):
            with divided.devices.on(k):
                self._rows.append(_Rows(divided, k))

    @property
    def flops(self) -> float:
        """Operations of one product: four products of matrices, and about 60 for each weight."""
        training = self._divided.training
        return float(training.n_train**2 * training.n_perms * (8.0 * training.x.shape[1] + 60.0))

    def __call__(self, v: Any) -> Any:
        """Return K v, shape (n,), of v (n,), both on the first device: 3 N coordinates of a point, perhaps its energy.

        Raises
        ------
        InsufficientMemoryError
            If a device has no room for one training point.
        """
        devices = self._divided.devices
        product = self._divided.xp.empty(v.shape)
        sent = [devices.send(v, k) for k in range(len(devices))]
        for k, rows in enumerate(self._rows):
            with devices.on(k):
                part = rows.product(sent[k])
            devices.fetch(product[self._divided.rows(k)], part, k)
        return product


class _Rows:
    """The rows of K of the points of one device, the current one in all calls."""

    def __init__(self, divided: DividedTraining, k: int) -> None:
        training, xp = divided.training, divided.xp
        self._xp, self._energies, self._n_atoms = xp, training.energies, training.n_atoms
        here, own = divided.here[k], divided.here[k].part(slice(divided.points[k].start, divided.points[k].stop))
        self._all_g, self._x, self._g = here.g, own.x, own.g
        self._a, self._b = (xp.asarray(atom) for atom in np.tril_indices(self._n_atoms, -1))
        # A model whose coefficients are replaced at each product: a single zero until then.
        z, zero, tables, sig = np.zeros(self._n_atoms, dtype=int), np.zeros(()), training.tables, training.sig
        arrays = ModelArrays(z, tables.pair, training.x, zero, None, float(sig), 1.0, 0.0)
        self._model = DeviceModel(arrays, xp, x=here.x)
        self._bulk = Bulk(self._model)
        # Of a batch; chosen at the first product, when all else has its memory.
        self._size: int | None = None

    def product(self, v: Any) -> Any:
        """Return these rows of K v, of the whole v."""
        parts = v.reshape(len(self._all_g), -1)
        forces = parts[:, : 3 * self._n_atoms].reshape(len(parts), self._n_atoms, 3)
        # J v, as in `fastgdml.descriptor.jacobian_dot`.
        J_v = (self._all_g * (forces[:, self._b] - forces[:, self._a])).sum(axis=2)
        self._model.set_coefficients(J_v, parts[:, -1] if self._energies else None)
        product = self._xp.empty((len(self._x), parts.shape[1]))

        def compute(begin: int, end: int) -> Any:
            return self._bulk.predict(self._x[begin:end], self._g[begin:end], False)

        def collect(begin: int, end: int, predicted: Any, stream: Any) -> None:
            E, F, _ = predicted
            product[begin:end, : 3 * self._n_atoms] = F
            if self._energies:
                product[begin:end, -1] = -E

        size = self._bulk.batch_size(len(self._x)) if self._size is None else self._size
        try:
            self._size = work_through(Ranges(len(self._x)), size, repeat(nullcontext()), compute, collect, self._xp)
        except MemoryError:
            raise InsufficientMemoryError(
                f"The device has no room for the product of the kernel matrix with a vector: one of {len(parts)} "
                f"training points needs {self._bulk.bytes_per_geometry / 2**20:.0f} MB. Free memory of the device, or "
                "give a smaller limit (max_memory, -m), so that the preconditioner leaves more."
            ) from None
        return product.ravel()
