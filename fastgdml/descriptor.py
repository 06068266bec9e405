"""Inverse-distance descriptor of a geometry, and how permutations of atoms act on it.

Pair k = (a, b), a > b, in the order of ``np.tril_indices(n_atoms, -1)``. The descriptor is x_k = w_k / r_ab, with
weights w_k of pairs that are 1 unless they were learned (`fastgdml.weights`). Its Jacobian is stored compressed:
g_k = w_k (r_a - r_b) / r_ab^3, with dx_k/dr_b = g_k and dx_k/dr_a = -g_k.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from .cell import Cell
from .errors import DataError
from .native import _core
from .threads import resolve_n_threads
from .types import Array, IntArray


def n_pairs(n_atoms: int) -> int:
    """Return the length D of the descriptor of `n_atoms` atoms."""
    return n_atoms * (n_atoms - 1) // 2


def n_atoms_of(n_desc: int) -> int:
    """Return the number of atoms that a descriptor of length `n_desc` belongs to."""
    return (1 + isqrt(8 * n_desc + 1)) // 2


def from_R(
    R: npt.ArrayLike, cell: Cell | None = None, n_threads: int | None = None, weights: Array | None = None
) -> tuple[Array, Array]:
    """Compute descriptors and their Jacobians.

    Parameters
    ----------
    R : array_like, shape (n_geo, n_atoms, 3)
        Cartesian coordinates.
    cell : Cell, optional
        Periodic cell or cells, and the rule by which differences are folded into them.
    n_threads : int, optional
        Number of threads; all by default.
    weights : ndarray, shape (D,), optional
        Weights of pairs, 1 by default.

    Returns
    -------
    R_desc : ndarray, shape (n_geo, D)
        Weights over distances.
    R_d_desc : ndarray, shape (n_geo, D, 3)
        Compressed Jacobians.

    Raises
    ------
    DataError
        If coordinates are not finite, two atoms of a geometry coincide, or the numbers of cells and geometries differ.
    """
    R = np.ascontiguousarray(R, dtype=np.float64)
    if R.ndim != 3 or R.shape[2] != 3 or R.shape[1] < 2:
        raise DataError(f"Geometries must have shape (n_geo, n_atoms >= 2, 3); found {R.shape}.")
    dim = n_pairs(R.shape[1])
    x, g = np.empty((len(R), dim)), np.empty((len(R), dim, 3))
    if cell is not None:
        cell.require_for(len(R))
    bad = _core.descriptors(R, None if cell is None else cell.native, x, g, resolve_n_threads(n_threads))
    if bad is not None:
        raise geometry_error(R[bad[0]], bad[0], bad[1])
    return (x, g) if weights is None else weighted(x, g, weights)


def weighted(R_desc: Array, R_d_desc: Array, weights: Array) -> tuple[Array, Array]:
    """Return descriptors (n_geo, D) and Jacobians (n_geo, D, 3) with weights of pairs (D,); both are linear in them."""
    return R_desc * weights, R_d_desc * weights[:, None]


def desc_weights_of(entries: Mapping[str, Any], n_atoms: int) -> Array | None:
    """Return the weights of pairs (D,) of a task or model, None where it has none.

    Raises
    ------
    DataError
        If there is not a positive number for each pair.
    """
    weights = entries.get("desc_weights")
    if weights is None:
        return None
    checked = np.ascontiguousarray(weights, dtype=np.float64)
    if checked.shape != (n_pairs(n_atoms),) or not (np.isfinite(checked) & (checked > 0)).all():
        raise DataError(
            f"desc_weights must hold {n_pairs(n_atoms)} positive numbers, one for each pair of {n_atoms} atoms; found "
            f"shape {checked.shape}."
        )
    return checked


def require_geometries(shape: tuple[int, ...], n_atoms: int) -> None:
    """Raise DataError unless an array of this shape holds geometries of `n_atoms` atoms.

    Such shapes are (..., 3 n_atoms) and (..., n_atoms, 3).
    """
    n_coord = 3 * n_atoms
    if shape[-1:] != (n_coord,) and shape[-2:] != (n_atoms, 3):
        raise DataError(
            f"Geometries of shape {shape} do not fit a model of {n_atoms} atoms: (n_geo, {n_coord}) expected."
        )


def geometry_error(r: Array, index: int, pair: int | None = None) -> DataError:
    """Return the error that explains why geometry `index` with coordinates `r` has no descriptor."""
    if not np.isfinite(r).all():
        return DataError(
            f"Geometry {index} has coordinates that are not finite (first at atom "
            f"{int(np.argwhere(~np.isfinite(r.reshape(-1, 3)))[0, 0])}). Remove or repair it."
        )
    where = ""
    if pair is not None:
        a, b = np.tril_indices(len(r), -1)[0][pair], np.tril_indices(len(r), -1)[1][pair]
        where = f" (atoms {b} and {a})"
    return DataError(f"Two atoms of geometry {index} are at the same place{where}. Remove or repair it.")


def pair_permutation(perm: npt.ArrayLike) -> IntArray:
    """Return the index array, shape (D,), that a permutation of atoms induces on pairs.

    Element k = (a, b) is the index of pair (perm[a], perm[b]). This is `Desc.perm` of sGDML.
    """
    p = np.asarray(perm, dtype=np.int64)
    a, b = np.tril_indices(len(p), -1)
    high, low = np.maximum(p[a], p[b]), np.minimum(p[a], p[b])
    return high * (high - 1) // 2 + low


def tril_perms_lin(perms: npt.ArrayLike) -> IntArray:
    """Return the pair permutations of all `perms` (P, N), offset by p * D and flattened column by column, (P * D,)."""
    perms = np.atleast_2d(perms)
    pairs = np.array([pair_permutation(p) for p in perms])
    return (pairs + np.arange(len(perms))[:, None] * pairs.shape[1]).flatten("F")


def pair_perms_from_lin(lin: npt.ArrayLike, n_desc: int) -> IntArray:
    """Return the pair permutations (P, D) that `tril_perms_lin` was made from."""
    lin = np.asarray(lin, dtype=np.int64)
    n_perms = len(lin) // n_desc
    if n_perms * n_desc != len(lin) or n_perms == 0:
        raise DataError(f"tril_perms_lin has {len(lin)} elements, which is no multiple of {n_desc} pairs.")
    pairs = lin.reshape(n_perms, n_desc, order="F") - np.arange(n_perms)[:, None] * n_desc
    if not np.array_equal(np.sort(pairs, axis=1), np.broadcast_to(np.arange(n_desc), pairs.shape)):
        raise DataError("tril_perms_lin does not hold permutations of atom pairs. The file is damaged.")
    return pairs


def perms_from_lin(lin: npt.ArrayLike, n_desc: int) -> IntArray:
    """Return the permutations of atoms (P, N) that `tril_perms_lin` was made from."""
    pairs = pair_perms_from_lin(lin, n_desc)
    n_atoms = n_atoms_of(n_desc)
    if n_atoms == 2:
        return np.tile(np.arange(2), (len(pairs), 1))
    high, low = np.tril_indices(n_atoms, -1)
    # Atom a is what the pairs (a, b) and (a, c) share, and so are their images.
    perms = np.empty((len(pairs), n_atoms), dtype=np.int64)
    for a in range(n_atoms):
        b, c = [other for other in range(3) if other != a][:2]
        one, other = (pairs[:, max(a, e) * (max(a, e) - 1) // 2 + min(a, e)] for e in (b, c))
        shared = (high[one] == high[other]) | (high[one] == low[other])
        perms[:, a] = np.where(shared, high[one], low[one])
    if not np.array_equal(pairs, [pair_permutation(p) for p in perms]):
        raise DataError("tril_perms_lin does not hold permutations of atoms. The file is damaged.")
    return perms


def jacobian_dot(R_d_desc: Array, vectors: Array) -> Array:
    """Return J v for each geometry: (M, D, 3) Jacobians with (M, N, 3) or (M, 3 N) vectors to (M, D).

    (J v)_k = g_k . (v_b - v_a) for pair k = (a, b).
    """
    n_atoms = n_atoms_of(R_d_desc.shape[1])
    a, b = np.tril_indices(n_atoms, -1)
    v = vectors.reshape(len(R_d_desc), n_atoms, 3)
    return np.einsum("mki,mki->mk", R_d_desc, v[:, b] - v[:, a])
