"""Nearest neighbours of atoms: what bonds look like without knowing any, whatever the unit of length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .descriptor import Array, IntArray, n_atoms_of

# Elements of the matrices of inverse distances that are in memory at once.
_CHUNK_ELEMENTS = 2**21
# An atom has one bond if its second neighbour is farther away than the first by this factor.
_ONE_BOND = 1.25


@dataclass(frozen=True)
class Neighbours:
    """Nearest neighbours of every atom in every geometry.

    Attributes
    ----------
    distance, second : ndarray, shape (M, N)
        Distances to the nearest and to the second nearest atom; the latter infinite for two atoms.
    nearest : ndarray of int, shape (M, N)
        The nearest atom.
    """

    distance: Array
    second: Array
    nearest: IntArray

    @classmethod
    def of(cls, R_desc: Array) -> Neighbours:
        """Find them from descriptors, shape (M, D)."""
        n_geo, n_atoms = len(R_desc), n_atoms_of(R_desc.shape[1])
        first, second = np.empty((n_geo, n_atoms)), np.zeros((n_geo, n_atoms))
        nearest = np.empty((n_geo, n_atoms), dtype=np.int64)
        # Row a of a matrix of pairs without the diagonal: the N - 1 pairs that atom a is in.
        high, low = np.tril_indices(n_atoms, -1)
        pairs = np.empty((n_atoms, n_atoms), dtype=np.int64)
        pairs[high, low] = pairs[low, high] = np.arange(len(high))
        others = np.array([np.delete(np.arange(n_atoms), a) for a in range(n_atoms)])
        pairs = np.take_along_axis(pairs, others, axis=1)
        step = max(1, _CHUNK_ELEMENTS // n_atoms**2)
        for start in range(0, n_geo, step):
            part = slice(start, min(start + step, n_geo))
            inverse = R_desc[part][:, pairs]
            best = inverse.argmax(axis=2)[..., None]
            first[part] = np.take_along_axis(inverse, best, axis=2)[..., 0]
            nearest[part] = np.take_along_axis(np.broadcast_to(others, inverse.shape), best, axis=2)[..., 0]
            np.put_along_axis(inverse, best, 0.0, axis=2)
            second[part] = inverse.max(axis=2)
        with np.errstate(divide="ignore"):
            return cls(1 / first, 1 / second, nearest)

    def usual(self) -> Array:
        """Return the median over the geometries of the distance to the nearest atom, shape (N,)."""
        return np.median(self.distance, axis=0)

    @classmethod
    def joined(cls, parts: Sequence[Neighbours]) -> Neighbours:
        """Return the neighbours in the geometries of all parts."""
        names = ("distance", "second", "nearest")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def relabelled(near: Neighbours, z: npt.ArrayLike) -> tuple[IntArray, IntArray]:
    """Find geometries in which atoms of one element have changed places in the order of atoms.

    Atoms with one bond are followed, hydrogens above all: which atom holds them does not change without a reaction.
    Where two or more of them have another partner at once, each atom holds as many as some atom of its element did
    before, and no geometry is halfway (as in the transfer of a proton), the atoms have been listed in another order.

    Parameters
    ----------
    near : Neighbours
        Neighbours in the geometries.
    z : array_like of int, shape (N,)
        Atomic numbers.

    Returns
    -------
    geometries, atoms : ndarray of int
        The geometries that differ from the most frequent order, and the followed atoms that differ in any of them.
    """
    numbers = np.asarray(z, dtype=np.int64)
    nothing = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    single = near.second > _ONE_BOND * near.distance
    atoms = np.flatnonzero(single.all(axis=0))
    if len(atoms) < 2 or len(near.nearest) < 2:
        return nothing
    partner = near.nearest[:, atoms]
    orders, which, counts = np.unique(partner, axis=0, return_inverse=True, return_counts=True)
    usual = int(counts.argmax())
    which = which.ravel()
    bonds = _bonds_of_elements(orders[usual], atoms, numbers)
    moved = [
        i
        for i, order in enumerate(orders)
        if np.count_nonzero(order != orders[usual]) >= 2 and _bonds_of_elements(order, atoms, numbers) == bonds
    ]
    if not moved:
        return nothing
    changed = (orders[moved] != orders[usual]).any(axis=0)
    return np.flatnonzero(np.isin(which, moved)), atoms[changed]


def _bonds_of_elements(partner: IntArray, atoms: IntArray, z: IntArray) -> list[tuple[int, ...]]:
    """Return for each atom that holds others its element and theirs, sorted: the same for any order of like atoms."""
    held: dict[int, list[int]] = {}
    for atom, holder in zip(atoms, partner, strict=True):
        held.setdefault(int(holder), []).append(int(z[atom]))
    return sorted((int(z[holder]), *sorted(elements)) for holder, elements in held.items())
