"""Inverse-distance descriptors on a device; the twin of `fastgdml.descriptor`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ..cell import Cell
from ..descriptor import geometry_error, weighted
from ..errors import DataError
from ..types import Array
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
    x, g, unusable = descriptors(R, cell, xp=xp)
    # The one place that waits for the device: a geometry that cannot be used must not pass.
    if unusable.any():
        index = int(unusable.argmax())
        raise unusable_error(to_numpy(R[index]), cell and cell.part(slice(index, index + 1)), first + index)
    return x, g


def descriptors(
    R: Any, cell: Cell | None = None, weights: Array | None = None, *, xp: ModuleType
) -> tuple[Any, Any, Any]:
    """Return descriptors and Jacobians as `from_R`, and which geometries (n_geo,) have none. Waits for nothing.

    Both are multiplied by weights of pairs (D,), if there are any.
    """
    with np.errstate(all="ignore"):
        d, squared = _differences(R, cell, xp)
        x = 1 / xp.sqrt(squared)
        g = d * (x * x * x)[:, :, None]
        if weights is not None:
            x, g = weighted(x, g, xp.asarray(weights))
    return x, g, ~_usable(squared).all(axis=1)


def unusable_error(r: Array, cell: Cell | None, index: int) -> DataError:
    """Return the error for a geometry (N, 3) of number `index` that `descriptors` found unusable, in its cell."""
    with np.errstate(all="ignore"):
        usable = _usable(_differences(r[None], cell, np)[1])[0]
    return geometry_error(r, index, int(usable.argmin()))


def _usable(squared: Any) -> Any:
    return (squared > 0) & (squared < np.inf)


def _differences(R: Any, cell: Cell | None, xp: ModuleType) -> tuple[Any, Any]:
    """Return the differences (n_geo, D, 3) of the positions of pairs, in the cell, and their squares (n_geo, D)."""
    a, b = (xp.asarray(atom) for atom in np.tril_indices(R.shape[1], -1))
    d = R[:, a] - R[:, b]
    if cell is not None:
        d = _fold(d, cell, xp)
    return d, (d * d).sum(axis=2)


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
