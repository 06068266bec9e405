"""Stands in for sgdml.utils.desc."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastgdml.cell import Cell
from fastgdml.descriptor import from_R, n_atoms_of, n_pairs, pair_permutation
from fastgdml.types import Array, IntArray

Lattice = tuple[Array, Array] | None  # vectors as columns, and their inverse


class Desc:
    """Descriptors and Jacobians of molecules of `n_atoms` atoms; see `fastgdml.descriptor`.

    Jacobians are compressed, (D, 3): row k = (a, b) holds g_k = (r_a - r_b) / r_ab^3. The full form, (D, 3 N), has g_k
    at atom b and -g_k at atom a. Where a method takes several Jacobians and vectors, one of either goes with all of the
    other.
    """

    def __init__(self, n_atoms: int, max_processes: int | None = None) -> None:
        self.n_atoms = n_atoms
        self.dim_i = 3 * n_atoms
        self.dim = n_pairs(n_atoms)
        self.dim_range = np.arange(self.dim)
        self.tril_indices = np.tril_indices(n_atoms, -1)
        self.max_processes = max_processes
        a, b = self.tril_indices
        # The pairs that contain each atom, (N, N - 1), first those where it is the larger index; then, flattened, the
        # other atom of each and the atom itself.
        self.d_desc_mask = np.array([[*np.flatnonzero(a == i), *np.flatnonzero(b == i)] for i in range(n_atoms)])
        self.M = np.array([j for i in range(n_atoms) for j in range(n_atoms) if j != i])
        self.A = np.repeat(np.arange(n_atoms), n_atoms - 1)

    def from_R(
        self,
        R: Array,
        lat_and_inv: Lattice = None,
        max_processes: int | None = None,
        callback: Callable[..., Any] | None = None,
    ) -> tuple[Array, Array]:
        """Return descriptors (M, D) and compressed Jacobians (M, D, 3) of geometries (M, 3 N).

        For one geometry both lack the first dimension, as in sgdml.
        """
        cell = None if lat_and_inv is None else Cell(lat_and_inv[0], "rounding")
        x, g = from_R(np.reshape(R, (-1, self.n_atoms, 3)), cell, max_processes or self.max_processes)
        if callback is not None:
            callback(len(x), len(x))
        return (x[0], g[0]) if len(x) == 1 else (x, g)

    def d_desc_dot_vec(self, R_d_desc: Array, vecs: Array, overwrite_vecs: bool = False) -> Array:
        """Return J v, (M, D), of compressed Jacobians and vectors (M, 3 N)."""
        a, b = self.tril_indices
        v = np.reshape(vecs, (-1, self.n_atoms, 3))
        product: Array = np.sum(np.reshape(R_d_desc, (-1, self.dim, 3)) * (v[:, b] - v[:, a]), axis=2)
        return product

    def vec_dot_d_desc(self, R_d_desc: Array, vecs: Array, out: Array | None = None) -> Array:
        """Return J^T w, (M, 3 N), of compressed Jacobians and vectors (M, D)."""
        a, b = self.tril_indices
        terms = np.reshape(R_d_desc, (-1, self.dim, 3)) * np.reshape(vecs, (-1, self.dim, 1))
        result = np.zeros((self.n_atoms, len(terms), 3))
        np.add.at(result, b, terms.swapaxes(0, 1))
        np.subtract.at(result, a, terms.swapaxes(0, 1))
        return result.swapaxes(0, 1).reshape(len(terms), -1)

    def d_desc_from_comp(self, R_d_desc: Array, out: Array | None = None) -> Array:
        """Return the full form (M, D, 3 N) of compressed Jacobians; `out` must hold zeros."""
        a, b = self.tril_indices
        g = np.reshape(R_d_desc, (-1, self.dim, 3))
        full = np.zeros((len(g), self.dim, self.dim_i)) if out is None else out
        by_atom = full.reshape(len(g), self.dim, self.n_atoms, 3)
        by_atom[:, self.dim_range, b] = g
        by_atom[:, self.dim_range, a] = -g
        return by_atom.reshape(-1, self.dim, self.dim_i)

    def d_desc_to_comp(self, R_d_desc: Array) -> Array:
        """Return the compressed form (M, D, 3) of full Jacobians (M, D, 3 N)."""
        by_atom = np.reshape(R_d_desc, (-1, self.dim, self.n_atoms, 3))
        compressed: Array = by_atom[:, self.dim_range, self.tril_indices[1]]
        return compressed

    @staticmethod
    def perm(perm: IntArray) -> IntArray:
        """Return the index array (D,) that a permutation of atoms (N,) induces on pairs."""
        return pair_permutation(perm)


def _from_r(r: Array, lat_and_inv: Lattice = None) -> tuple[Array, Array]:
    """Return the descriptor (D,) and the compressed Jacobian (D, 3) of one geometry (3 N,)."""
    return Desc(np.size(r) // 3, max_processes=1).from_R(r, lat_and_inv)


def _pdist(r: Array, lat_and_inv: Lattice = None) -> Array:
    """Return the distances (D,) between the atoms of one geometry (3 N,)."""
    return 1 / _from_r(r, lat_and_inv)[0]


def _r_to_desc(r: Array, pdist: Array) -> Array:
    """Return the descriptor that belongs to distances (D,)."""
    return 1 / pdist


def _r_to_d_desc(r: Array, pdist: Array, lat_and_inv: Lattice = None) -> Array:
    """Return the compressed Jacobian (D, 3) of one geometry (3 N,)."""
    return _from_r(r, lat_and_inv)[1]


def _pbc_diff(diffs: Array, lat_and_inv: tuple[Array, Array], use_torch: bool = False) -> Array:
    """Fold differences (M, 3) into the cell, in place: d - L round(L^-1 d)."""
    lattice, inverse = lat_and_inv
    diffs -= np.around(diffs @ inverse.T) @ lattice.T
    return diffs


def _squareform(vec_or_mat: Array) -> Array:
    """Turn pairs (D,) into a symmetric matrix (N, N) with zeros on the diagonal, or the other way round."""
    if vec_or_mat.ndim == 2:
        pairs: Array = vec_or_mat[np.tril_indices(len(vec_or_mat), -1)]
        return pairs
    n_atoms = n_atoms_of(vec_or_mat.size)
    matrix = np.zeros((n_atoms, n_atoms))
    matrix[np.tril_indices(n_atoms, -1)] = vec_or_mat
    return matrix + matrix.T
