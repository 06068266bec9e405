"""Geometries to draw, and permutations in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..elements import radius_of
from ..types import Array
from .facts import Geometry

# Atoms are bonded whose distance, in sums of covalent radii, is below this times that of usual neighbours.
_BOND = 1.25


def geometry_of(R: Array, z: Sequence[int]) -> Geometry:
    """Return a geometry with its bonds."""
    return Geometry(np.round(R, 5).tolist(), bonds_of(R, z))


def bonds_of(R: Array, z: Sequence[int]) -> list[list[int]]:
    """Return the pairs of bonded atoms, from covalent radii, whatever the unit of length.

    The distance in sums of covalent radii to the nearest atom, the median over all atoms, is what a bond is long.
    """
    radii = np.array([radius_of(number) for number in z])
    distance = np.linalg.norm(R[:, None] - R, axis=2) / (radii[:, None] + radii)
    np.fill_diagonal(distance, np.inf)
    usual = float(np.median(distance.min(axis=1)))
    pairs = np.argwhere(np.triu(distance < _BOND * usual, 1))
    return [[int(a), int(b)] for a, b in pairs]


def embedded(distances: Array, n_atoms: int) -> Array:
    """Return positions (N, 3) with these distances, in the order of descriptors, by classical scaling.

    With D the matrix of squared distances and C the projection that removes the mean, -C D C / 2 is the matrix of
    scalar products of centred positions; its three largest eigenvalues belong to x, y, z. (W. S. Torgerson,
    Psychometrika 17, 401, 1952.)
    """
    squared = np.zeros((n_atoms, n_atoms))
    low = np.tril_indices(n_atoms, -1)
    squared[low] = distances**2
    squared += squared.T
    centre = np.eye(n_atoms) - 1 / n_atoms
    values, vectors = np.linalg.eigh(-centre @ squared @ centre / 2)
    positions = np.zeros((n_atoms, 3))
    n = min(3, n_atoms)
    positions[:, :n] = vectors[:, ::-1][:, :n] * np.sqrt(np.maximum(values[::-1][:n], 0))
    return positions


def orbits_of(perms: npt.NDArray[np.integer]) -> list[list[int]]:
    """Return the sets of atoms that permutations (P, N) exchange with each other, those of two or more."""
    n_perms, n_atoms = perms.shape
    start = np.tile(np.arange(n_atoms), n_perms)
    graph = coo_matrix((np.ones(n_perms * n_atoms, dtype=bool), (start, perms.ravel())), shape=(n_atoms, n_atoms))
    n_sets, which = connected_components(graph, directed=False)
    sets = [np.flatnonzero(which == i).tolist() for i in range(n_sets)]
    return sorted(atoms for atoms in sets if len(atoms) > 1)


def cycles_of(perm: Sequence[int] | npt.NDArray[np.integer]) -> str:
    """Return a permutation as cycles, (0 1 2)(4 5); the identity is ()."""
    seen: set[int] = set()
    cycles = []
    for first in range(len(perm)):
        cycle = []
        atom = first
        while atom not in seen:
            seen.add(atom)
            cycle.append(atom)
            atom = int(perm[atom])
        if len(cycle) > 1:
            cycles.append("(" + " ".join(str(each) for each in cycle) + ")")
    return "".join(cycles) or "()"
