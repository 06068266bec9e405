"""Prediction of many geometries on a device; the twin of `fastgdml.predict`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from math import sqrt
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..backend import array_module, energies_on_gpu_error
from ..cell import Cell
from ..descriptor import n_atoms_of, n_pairs, pair_perms_from_lin
from ..errors import DataError, InsufficientMemoryError
from .arrays import free_memory, release, take, to_numpy
from .descriptor import from_R
from .kernel import load_cuda

_log = logging.getLogger(__name__)

# Part of the free device memory that a batch of predictions may take: CuPy's pool and cuBLAS need some, too.
_MEMORY_FRACTION = 0.6
# Largest number of elements of one temporary of a batch: more does not run faster.
_MAX_ELEMENTS = 2**28
# As __launch_bounds__ in weights.cu.
_WEIGHTS_THREADS = 128


class GPUPredictor:
    """Predict energies and forces of many geometries by products of large matrices.

    With q = sqrt(5) / sigma, Y = q times the permuted query descriptors (n_geo P, D), X = q times the training
    descriptors (M, D) and V = J alpha (M, D), equation (5) of src/block_kernels.c reads

        rho^2 = |y|^2 + |x|^2 - 2 Y X^T,    T = Y V^T - x.v,    A = 5 exp(-rho) / (3 sigma^2)
        E = sum A (1 + rho) T / q,          -dE/dY = sum A T (Y - X) - A (1 + rho) V

    The mean training descriptor, averaged over the group, is subtracted from all descriptors first: that leaves
    differences as they are and keeps the cancellation in rho^2 small.

    Parameters
    ----------
    x : array, shape (M, D)
        Descriptors of the training points (the transpose of `R_desc` of a model).
    v : array, shape (M, D)
        J alpha of the training points (`R_d_desc_alpha`).
    pair_perms : ndarray of int, shape (P, D)
        Permutations of pairs; see `fastgdml.descriptor.pair_perms_from_lin`.
    sig, std, c : float
        Length scale, scale of the labels, integration constant.
    cell : Cell, optional
        The model's own periodic cell, used unless another is given.
    xp : module, optional
        numpy or cupy; cupy by default.

    Raises
    ------
    UsageError
        If `xp` is not given and there is no device.
    """

    def __init__(
        self,
        x: Any,
        v: Any,
        pair_perms: npt.NDArray[np.integer],
        sig: float,
        std: float,
        c: float,
        cell: Cell | None = None,
        xp: ModuleType | None = None,
    ) -> None:
        self.xp = xp = array_module("gpu") if xp is None else xp
        self.n_train, self.n_desc = x.shape
        self.n_perms = len(pair_perms)
        self.n_atoms = n_atoms_of(self.n_desc)
        if self.n_desc != n_pairs(self.n_atoms) or v.shape != x.shape or pair_perms.shape[1] != self.n_desc:
            raise DataError(
                f"Descriptors {x.shape}, coefficients {v.shape} and pair permutations {pair_perms.shape} do not belong "
                "to one molecule."
            )
        self.sig, self.std, self.c = float(sig), float(std), float(c)
        self.cell = cell
        self._q = sqrt(5) / self.sig
        # x_i - P_p x_j, read with the permutation on the query; and the way back, over (P D,).
        self._images = xp.asarray(np.argsort(pair_perms, axis=1))
        self._back = xp.asarray(pair_perms + self.n_desc * np.arange(self.n_perms)[:, None])
        x = xp.asarray(x, dtype=xp.float64)
        self._center = self._q * x.mean(axis=0)[xp.asarray(pair_perms)].mean(axis=0)
        # X and V, one below the other: both products with Y are one.
        self._xv = xp.empty((2 * self.n_train, self.n_desc))
        self._xv[: self.n_train] = self._q * x - self._center
        self._x_dot_x = (self._xv[: self.n_train] ** 2).sum(axis=1)
        # Columns +1 and -1 at the two atoms of each pair: J^T as a matrix product.
        a, b = np.tril_indices(self.n_atoms, -1)
        ends = np.zeros((self.n_desc, self.n_atoms))
        ends[np.arange(self.n_desc), b] = 1.0
        ends[np.arange(self.n_desc), a] = -1.0
        self._ends = xp.asarray(ends)
        self._weights = _weights_function(xp)
        self.set_coefficients(v)

    @classmethod
    def from_model(cls, model: Mapping[str, Any], xp: ModuleType | None = None) -> GPUPredictor:
        """Return the predictor of a model as made by `GDMLTrain.train` or `load_model`.

        Raises
        ------
        UsageError
            If the model has energy constraints, or `xp` is not given and there is no device.
        """
        if model.get("alphas_E") is not None:
            raise energies_on_gpu_error()
        x = np.asarray(model["R_desc"], dtype=np.float64).T
        return cls(
            x,
            np.asarray(model["R_d_desc_alpha"], dtype=np.float64),
            pair_perms_from_lin(model["tril_perms_lin"], x.shape[1]),
            float(model["sig"]),
            float(model["std"]),
            float(model["c"]),
            Cell.of(model),
            xp,
        )

    def set_coefficients(self, v: Any) -> None:
        """Replace J alpha (M, D)."""
        X, V = self._xv[: self.n_train], self._xv[self.n_train :]
        V[:] = self.xp.asarray(v, dtype=self.xp.float64)
        self._x_dot_v = (X * V).sum(axis=1)

    def predict(
        self, R: Any, return_E: bool = True, cell: Cell | None = None, return_virial: bool = False
    ) -> tuple[Any, ...]:
        """Predict energies and forces.

        Parameters
        ----------
        R : array_like, shape (n_geo, 3 n_atoms)
            Cartesian coordinates; (3 n_atoms,), (n_atoms, 3) and (n_geo, n_atoms, 3) are accepted, too. Arrays that
            lie on the device (CuPy, PyTorch, JAX, ...: ``__cuda_array_interface__`` or ``__dlpack__``) are used where
            they are.
        return_E : bool
            False leaves out the energies.
        cell : Cell, optional
            Periodic cell or cells to predict in; the model's own by default.
        return_virial : bool
            Also return virials.

        Returns
        -------
        E : array, shape (n_geo,)
            Energies, unless `return_E` is False.
        F : array, shape (n_geo, 3 n_atoms)
            Forces.
        virial : array, shape (n_geo, 3, 3)
            Only with `return_virial`; see `GDMLPredict.predict`.

            All are NumPy arrays for data on the host, CuPy arrays for data on the device.

        Raises
        ------
        DataError
            If the number of coordinates does not fit the model, a coordinate is not finite or two atoms coincide.
        InsufficientMemoryError
            If not even one geometry fits into the memory of the device.
        """
        r, on_device = take(R, self.xp)
        n_coord = 3 * self.n_atoms
        if r.size % n_coord or not (r.shape[-1:] == (n_coord,) or r.shape[-2:] == (self.n_atoms, 3)):
            raise DataError(
                f"Geometries of shape {r.shape} do not fit a model of {self.n_atoms} atoms: "
                f"(n_geo, {n_coord}) expected."
            )
        r = r.reshape(-1, self.n_atoms, 3)
        cell = self.cell if cell is None else cell
        if cell is not None:
            cell.require_for(len(r))

        def batch_of(begin: int, end: int) -> tuple[Any, Any]:
            part = cell and cell.part(slice(begin, end))
            return from_R(self.xp.asarray(r[begin:end]), part, begin, xp=self.xp)

        E, F, virial = self._in_batches(len(r), batch_of, self.xp if on_device else np, return_virial)
        return tuple(wanted for wanted in (E if return_E else None, F, virial) if wanted is not None)

    def predict_descriptors(self, x: Any, g: Any, return_E: bool = True) -> tuple[Any, ...]:
        """Predict from descriptors (n_geo, D) and Jacobians (n_geo, D, 3); otherwise as `predict`."""
        (x, on_device), (g, _) = take(x, self.xp), take(g, self.xp)
        asarray = self.xp.asarray
        E, F, _ = self._in_batches(
            len(x), lambda begin, end: (asarray(x[begin:end]), asarray(g[begin:end])), self.xp if on_device else np
        )
        return (E, F) if return_E else (F,)

    def _in_batches(
        self, n_geo: int, batch_of: Callable[[int, int], tuple[Any, Any]], out: ModuleType, virials: bool = False
    ) -> tuple[Any, ...]:
        """Predict batch by batch into arrays of the module `out`; smaller batches when memory runs out."""
        results = (
            out.empty(n_geo),
            out.empty((n_geo, 3 * self.n_atoms)),
            out.empty((n_geo, 3, 3)) if virials else None,
        )
        batch = self._batch_size(n_geo)
        begin = 0
        while begin < n_geo:
            end = min(begin + batch, n_geo)
            try:
                parts = self._predict_batch(*batch_of(begin, end), virials)
            except MemoryError:  # CuPy's OutOfMemoryError is one
                if end - begin == 1:
                    raise InsufficientMemoryError(
                        f"The device has no room for one geometry of {self.n_atoms} atoms with {self.n_train} training "
                        f"points and {self.n_perms} permutations ({self._bytes_per_geometry() / 2**20:.0f} MB). Free "
                        "memory of the device, or predict on the processor: backend='cpu'."
                    ) from None
                batch = (end - begin) // 2
                _log.info("Out of device memory with %d geometries a batch; trying %d.", end - begin, batch)
                release(self.xp)
                continue
            for result, part in zip(results, parts, strict=True):
                if result is not None:
                    result[begin:end] = to_numpy(part) if out is np else part
            begin = end
        return results

    def _bytes_per_geometry(self) -> int:
        return 8 * (2 * self.n_perms * self.n_train + 6 * self.n_perms * self.n_desc + 16 * self.n_desc)

    def _batch_size(self, n_geo: int) -> int:
        """Return how many geometries to predict at once."""
        fits = int(_MEMORY_FRACTION * free_memory(self.xp)) // self._bytes_per_geometry()
        widest = self.n_perms * max(2 * self.n_train, 3 * self.n_desc)
        return max(1, min(n_geo, fits, _MAX_ELEMENTS // widest))

    def _predict_batch(self, x: Any, g: Any, virials: bool) -> tuple[Any, ...]:
        xp, n_geo = self.xp, len(x)
        y = (self._q * x)[:, self._images].reshape(-1, self.n_desc)
        # After the permutation, so that sets of permutations that are no group are right, too.
        y -= self._center
        st = y @ self._xv.T
        w1_sum, e = self._weights(st, (y * y).sum(axis=1), self._x_dot_x, self._x_dot_v, 5.0 / (3.0 * self.sig**2))
        E = (self.std / self._q) * e.reshape(n_geo, -1).sum(axis=1) + self.c
        y *= w1_sum[:, None]
        y -= st @ self._xv
        # Back through the permutations, summed over them.
        minus_dE_dx = y.reshape(n_geo, -1)[:, self._back].sum(axis=1)
        f = g * (self.std * minus_dE_dx)[:, :, None]
        F = xp.tensordot(f, self._ends, axes=(1, 0)).transpose(0, 2, 1).reshape(n_geo, -1)
        # Distances are g / x^3.
        virial = -xp.matmul(f.transpose(0, 2, 1), g / (x * x * x)[:, :, None]) if virials else None
        return E, F, virial


def _weights_function(xp: ModuleType) -> Callable[..., tuple[Any, Any]]:
    """Return the function (st, yy, xx, xv, factor) -> (w1_sum, e_sum) that cuda/weights.cu describes."""
    if xp is np:
        return _weights_numpy
    kernel = load_cuda("weights", xp)

    def weights(st: Any, yy: Any, xx: Any, xv: Any, factor: float) -> tuple[Any, Any]:
        w1_sum, e_sum = xp.empty(len(st)), xp.empty(len(st))
        arguments = (st, yy, xx, xv, w1_sum, e_sum, np.int32(len(xx)), np.float64(factor))
        kernel((len(st),), (_WEIGHTS_THREADS,), arguments)
        return w1_sum, e_sum

    return weights


def _weights_numpy(st: Any, yy: Any, xx: Any, xv: Any, factor: float) -> tuple[Any, Any]:
    s, t = st[:, : len(xx)], st[:, len(xx) :]
    rho = np.sqrt(np.maximum(yy[:, None] + xx - 2.0 * s, 0.0))
    projection = t - xv
    a = factor * np.exp(-rho)
    s[:] = a * projection
    t[:] = a * (1.0 + rho)
    return s.sum(axis=1), (t * projection).sum(axis=1)
