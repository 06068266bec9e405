"""A model for prediction in the memory of one device."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from types import ModuleType

import numpy as np
import numpy.typing as npt

from ..descriptor import n_atoms_of, n_pairs
from ..errors import DataError
from ..model_arrays import energy_coefficients
from ..types import Array
from .arrays import synchronize


@dataclass
class HostModel:
    """What the models on all devices are made of.

    Attributes
    ----------
    x, v : ndarray, shape (M, D)
        Descriptors of the training points, and J alpha.
    alphas_E : ndarray, shape (M,), or None
        Coefficients of energy constraints.
    pair_perms : ndarray of int, shape (P, D)
        Permutations of pairs; see `fastgdml.descriptor.pair_perms_from_lin`.
    sig, std, c : float
        Length scale, scale of the labels, integration constant.

    Raises
    ------
    DataError
        If shapes do not belong together.
    """

    x: Array
    v: Array
    alphas_E: Array | None
    pair_perms: npt.NDArray[np.integer]
    sig: float
    std: float
    c: float

    def __post_init__(self) -> None:
        n_train, n_desc = self.x.shape
        self.n_train, self.n_desc = n_train, n_desc
        self.n_perms = len(self.pair_perms)
        self.n_atoms = n_atoms_of(n_desc)
        if n_desc != n_pairs(self.n_atoms) or self.v.shape != self.x.shape or self.pair_perms.shape[1] != n_desc:
            raise DataError(
                f"Descriptors {self.x.shape}, coefficients {self.v.shape} and pair permutations "
                f"{self.pair_perms.shape} do not belong to one molecule."
            )
        self.alphas_E = energy_coefficients(self.alphas_E, n_train, DataError)


class DeviceModel:
    """A model on the current device, descriptors in units of sig / sqrt(5) and centred.

    The mean training descriptor, averaged over the group, is subtracted from all descriptors: that leaves differences
    as they are and keeps the cancellation in squares of distances small, where these come from products.

    Parameters
    ----------
    host : HostModel
    xp : module
        numpy or cupy.

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
    x_dot_x, x_dot_v : array, shape (M,)
        Row by row.
    energies : array, shape (M,)
        Coefficients of energy constraints divided by q; zero without them.
    """

    def __init__(self, host: HostModel, xp: ModuleType) -> None:
        self.xp = xp
        self.n_train, self.n_desc, self.n_perms, self.n_atoms = host.n_train, host.n_desc, host.n_perms, host.n_atoms
        self.sig, self.std, self.c = host.sig, host.std, host.c
        self.q = sqrt(5) / self.sig
        # Kernels read rows; argsort and what makes the permutations may leave columns.
        self.images = xp.asarray(np.ascontiguousarray(np.argsort(host.pair_perms, axis=1), dtype=np.int32))
        self.back = xp.asarray(np.ascontiguousarray(host.pair_perms, dtype=np.int32))
        center = self.q * host.x.mean(axis=0)[host.pair_perms].mean(axis=0)
        self.center = xp.asarray(center)
        self.xv = xp.empty((2 * self.n_train, self.n_desc))
        self.xv[: self.n_train] = xp.asarray(self.q * host.x - center)
        self.x_dot_x = (self.xv[: self.n_train] ** 2).sum(axis=1)
        self.x_dot_v = xp.empty(self.n_train)
        self.energies = xp.empty(self.n_train)
        self.set_coefficients(host)

    def set_coefficients(self, host: HostModel) -> None:
        """Take the coefficients anew. Arrays stay where they are: captured graphs hold their addresses."""
        xp, X, V = self.xp, self.xv[: self.n_train], self.xv[self.n_train :]
        V[:] = xp.asarray(host.v, dtype=xp.float64)
        self.x_dot_v[:] = (X * V).sum(axis=1)
        self.energies[:] = 0.0 if host.alphas_E is None else xp.asarray(host.alphas_E / self.q)
        # Other streams read these.
        synchronize(xp)
