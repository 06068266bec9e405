"""Sorting pairs of atoms: by what the symmetry group makes equal, and by elements and distance along bonds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .descriptor import n_atoms_of
from .elements import SYMBOLS, radius_of
from .group import GroupTables
from .types import Array, IntArray

# Atoms are bonded up to this multiple of the sum of their covalent radii.
_BOND = 1.3
# Pairs this many bonds apart, or more, are of one type.
_FAR = 5


@dataclass(frozen=True)
class PairClasses:
    """Pairs of atoms in classes that the group leaves as they are.

    Attributes
    ----------
    of_pair : ndarray of int64, shape (D,)
        Number of the class of each pair.
    names : tuple of str
        A name of each class.
    """

    of_pair: IntArray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def sums(self, values: Array) -> Array:
        """Return the sums over each class of a number for each pair (D,)."""
        return np.bincount(self.of_pair, weights=values, minlength=len(self)).astype(np.float64)


def orbits(tables: GroupTables, z: npt.ArrayLike) -> PairClasses:
    """Return the orbits of pairs under the group: a class holds the pairs that permutations move into each other.

    They are named by the atoms of their first pair, as C0-H3, and their number of pairs.
    """
    label = np.arange(tables.pair.shape[1], dtype=np.int64)
    while True:  # each pair takes the least label of its images, until nothing changes
        before = label
        for images in tables.pair:
            label = np.minimum(label, label[images])
            np.minimum.at(label, images, label)
        if np.array_equal(label, before):
            break
    first, of_pair, size = np.unique(label, return_inverse=True, return_counts=True)
    high, low = np.tril_indices(n_atoms_of(len(label)), -1)
    atom = [f"{SYMBOLS[int(number)]}{index}" for index, number in enumerate(np.asarray(z))]
    names = [
        f"{atom[low[k]]}-{atom[high[k]]}" + (f" ({n} alike)" if n > 1 else "") for k, n in zip(first, size, strict=True)
    ]
    return PairClasses(of_pair.astype(np.int64), tuple(names))


def types(tables: GroupTables, z: npt.ArrayLike, distances: Array) -> PairClasses:
    """Return the types of pairs: their two elements, and how many bonds lie between them.

    Parameters
    ----------
    tables : GroupTables
        The group. A type is a union of orbits: the fewest bonds of any pair of an orbit count for all of it.
    z : array_like of int, shape (N,)
        Atomic numbers.
    distances : ndarray, shape (D,)
        Typical distances in Angstrom.
    """
    numbers = np.asarray(z, dtype=np.int64)
    high, low = np.tril_indices(len(numbers), -1)
    radii = np.array([radius_of(number) for number in numbers])
    reach = _BOND * (radii[high] + radii[low])
    apart = np.minimum(_bonds_between(len(numbers), high, low, distances < reach), _FAR)
    orbit = orbits(tables, numbers).of_pair
    least = np.full(orbit.max() + 1, _FAR)
    np.minimum.at(least, orbit, apart)
    labels = []
    for k, bonds in enumerate(least[orbit]):
        elements = "-".join(sorted((SYMBOLS[numbers[low[k]]], SYMBOLS[numbers[high[k]]])))
        labels.append(f"{elements}, {bonds}{' or more' if bonds == _FAR else ''} bond{'s' if bonds > 1 else ''} apart")
    names, of_pair = np.unique(labels, return_inverse=True)
    return PairClasses(of_pair.astype(np.int64), tuple(names.tolist()))


def _bonds_between(n_atoms: int, high: IntArray, low: IntArray, bonded: npt.NDArray[np.bool_]) -> IntArray:
    """Return for each pair the fewest bonds from one atom to the other (Floyd-Warshall), `_FAR` if there are none."""
    steps = np.full((n_atoms, n_atoms), _FAR, dtype=np.int64)
    np.fill_diagonal(steps, 0)
    steps[high[bonded], low[bonded]] = steps[low[bonded], high[bonded]] = 1
    for atom in range(n_atoms):
        steps = np.minimum(steps, steps[:, atom, None] + steps[atom])
    return steps[high, low]
