"""A model for prediction in the memory of one device."""

from __future__ import annotations

from math import sqrt
from types import ModuleType
from typing import Any

import numpy as np

from ..model_arrays import ModelArrays
from .arrays import synchronize
from .slices import Sliced


class DeviceModel:
    """A model on the current device, descriptors in units of sig / sqrt(5) and centred.

    The mean training descriptor, averaged over the group, is subtracted from all descriptors: that leaves differences
    as they are and keeps the cancellation in squares of distances small, where these come from products.

    Parameters
    ----------
    arrays : ModelArrays
    xp : module
        numpy or cupy.
    precision : {'double', 'mixed'}
        'mixed' also keeps digits of X and V, from which `slices` makes products in float32.
    x : array, optional
        The descriptors, where they lie on the device already.

    Attributes
    ----------
    q : float
        sqrt(5) / sig.
    images, back : array of int32, shape (P, D)
        x_i - P_p x_j, read with the permutation on the query: the pair of the query that stands for each pair of a
        training point; and its inverse, the pair permutations.
    center : array, shape (D,)
        q times the mean descriptor.
    xv : array, shape (2 M, D)
        X, the descriptors of the training points, centred, and below it V = J alpha.
    fused_xv : array
        What the fused kernels read: `xv`, or with 'mixed', (2 M, D, 2) in float32: leading and remaining part of
        the numbers, X not centred.
    x_dot_x, x_dot_v : array, shape (M,)
        Row by row.
    energies : array, shape (M,)
        Coefficients of energy constraints divided by q; zero without them.
    """

    def __init__(self, arrays: ModelArrays, xp: ModuleType, precision: str = "double", x: Any = None) -> None:
        self.xp, self.precision = xp, precision
        self.n_train, self.n_desc = arrays.x.shape
        self.n_perms, self.n_atoms = len(arrays.pair_images), len(arrays.z)
        self.sig, self.std, self.c = arrays.sig, arrays.std, arrays.c
        self.weights = None if arrays.weights is None else xp.asarray(arrays.weights)
        self.q = sqrt(5) / self.sig
        back = np.argsort(arrays.pair_images, axis=1)
        # Kernels read rows; argsort and what makes the permutations may leave columns.
        self.images = xp.asarray(np.ascontiguousarray(arrays.pair_images, dtype=np.int32))
        self.back = xp.asarray(np.ascontiguousarray(back, dtype=np.int32))
        center = self.q * arrays.x.mean(axis=0)[back].mean(axis=0)
        self.center = xp.asarray(center)
        self.xv = xp.empty((2 * self.n_train, self.n_desc))
        scaled = self.q * (xp.asarray(arrays.x) if x is None else x)
        self.xv[: self.n_train] = scaled - self.center
        self.fused_xv = self.xv
        if precision == "mixed":
            # Of the rows for y.x, of the columns for the sums over training points; likewise of V.
            self.column_slices = [Sliced(self.xv[: self.n_train].T, xp)]
            self.fused_xv = xp.empty((*self.xv.shape, 2), dtype=xp.float32)
            self.fused_xv[: self.n_train] = _two_floats(scaled, xp)
        self.x_dot_x = (self.xv[: self.n_train] ** 2).sum(axis=1)
        self.x_dot_v = xp.empty(self.n_train)
        self.energies = xp.empty(self.n_train)
        self.set_coefficients(arrays.v, arrays.alphas_E)
        # Other streams read these.
        synchronize(xp)

    def set_coefficients(self, v: Any, alphas_E: Any) -> None:
        """Take other coefficients, V and those of energy constraints (M,) or None, perhaps on the device.

        All arrays but the digits stay where they are. The work is left to the current stream.
        """
        xp, X, V = self.xp, self.xv[: self.n_train], self.xv[self.n_train :]
        V[:] = xp.asarray(v, dtype=xp.float64)
        self.x_dot_v[:] = (X * V).sum(axis=1)
        if self.precision == "mixed":
            self.row_slices = Sliced(self.xv, xp)
            self.column_slices[1:] = [Sliced(V.T, xp)]
            self.fused_xv[self.n_train :] = _two_floats(V, xp)
        self.energies[:] = 0.0 if alphas_E is None else xp.asarray(alphas_E) / self.q


def _two_floats(x: Any, xp: ModuleType) -> Any:
    """Return the leading and the remaining part of each number, (..., 2) in float32."""
    leading = x.astype(xp.float32)
    return xp.stack([leading, (x - leading).astype(xp.float32)], axis=-1)
