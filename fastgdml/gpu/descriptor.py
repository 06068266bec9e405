"""Inverse-distance descriptors on a device; the twin of `fastgdml.descriptor`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ..cell import Cell
from ..descriptor import geometry_error
from ..errors import DataError
from .arrays import to_numpy


def from_R(R: Any, cell: Cell | None = None, first: int = 0, *, xp: ModuleType) -> tuple[Any, Any]:
    """Compute descriptors and their Jacobians; twin of `fastgdml.descriptor.from_R`.

    Parameters
    ----------
    R : array, shape (n_geo, n_atoms, 3)
        Cartesian coordinates.
    cell : Cell, optional
        Periodic cell or cells, and the rule by which differences are folded into them.
    first : int
        Number of the first geometry, for error messages.
    xp : module
        numpy or cupy.

    Returns
    -------
    R_desc, R_d_desc : array, shapes (n_geo, D) and (n_geo, D, 3)
        Inverse distances and compressed Jacobians.

    Raises
    ------
    DataError
        If coordinates are not finite or two atoms of a geometry coincide.
    """
    R = xp.asarray(R, dtype=xp.float64)
    if R.ndim != 3 or R.shape[2] != 3 or R.shape[1] < 2:
        raise DataError(f"Geometries must have shape (n_geo, n_atoms >= 2, 3); found {R.shape}.")
    a, b = (xp.asarray(atom) for atom in np.tril_indices(R.shape[1], -1))
    d = R[:, a] - R[:, b]
    if cell is not None:
        d = _fold(d, cell, xp)
    squared = (d * d).sum(axis=2)
    # The one place that waits for the device: a geometry that cannot be used must not pass.
    unusable = ~((squared > 0) & (squared < xp.inf))
    if unusable.any():
        index, pair = (int(k) for k in np.argwhere(to_numpy(unusable))[0])
        raise geometry_error(to_numpy(R[index]), first + index, pair)
    x = 1 / xp.sqrt(squared)
    return x, d * (x * x * x)[:, :, None]


def _fold(d: Any, cell: Cell, xp: ModuleType) -> Any:
    """Return differences (n_geo, D, 3) folded into the cell; see src/cell.c."""
    basis, inverse, shifts = (xp.asarray(table) for table in cell.native.tables())
    d = d - xp.rint(d @ inverse.swapaxes(1, 2)) @ basis.swapaxes(1, 2)
    nearest, shortest = d, (d * d).sum(axis=2)
    for k in range(shifts.shape[1]):
        image = d - shifts[:, k, None, :]
        squared = (image * image).sum(axis=2)
        shorter = squared < shortest
        nearest, shortest = xp.where(shorter[:, :, None], image, nearest), xp.where(shorter, squared, shortest)
    return nearest
