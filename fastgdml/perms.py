"""Permutations of atoms as they are given: rows that are permutations, sets of rows that are groups."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .types import IntArray


def check_perms(perms: npt.ArrayLike) -> IntArray:
    """Return permutations as an integer array (P, N), or raise DataError when a row is none."""
    try:
        given = np.asarray(perms)
        if given.dtype.kind not in "iu" and not np.isfinite(given.astype(np.float64)).all():
            raise ValueError("not finite")
        array = np.atleast_2d(given.astype(np.int64))
    except (ValueError, TypeError, OverflowError):
        raise DataError("perms must be an array of integers, one permutation of atoms a row.") from None
    if array.ndim != 2 or array.size == 0 or (given.dtype.kind not in "iu" and not (array == given).all()):
        raise DataError(
            f"perms must hold integers, one permutation of atoms a row; found {given.dtype} of shape {given.shape}."
        )
    if not np.array_equal(np.sort(array, axis=1), np.broadcast_to(np.arange(array.shape[1]), array.shape)):
        raise DataError(f"Each row of perms must be a permutation of 0..{array.shape[1] - 1}.")
    return array


def check_group(perms: npt.ArrayLike, z: npt.ArrayLike | None = None) -> IntArray:
    """Return permutations as an integer array (P, N), or raise DataError unless they are a group of like atoms.

    The kernel of a set that is no group is not symmetric, and equations with it have no meaning.

    Parameters
    ----------
    perms : array_like of int, shape (P, N)
        Permutations, in any order.
    z : array_like of int, shape (N,), optional
        Atomic numbers: no permutation may exchange atoms of different ones.

    Raises
    ------
    DataError
        If a row is no permutation, or occurs twice; if elements are exchanged; if the identity or a product of two rows
        is missing.
    """
    array = check_perms(perms)
    if z is not None:
        numbers = np.asarray(z)
        if numbers.shape != array.shape[1:]:
            raise DataError(f"perms is for {array.shape[1]} atoms; there are {numbers.size}.")
        wrong = np.argwhere(numbers[array] != numbers)
        if len(wrong):
            row, atom = wrong[0]
            raise DataError(
                f"perms exchanges different elements: row {row} takes atom {atom} (Z = {numbers[atom]}) to the place "
                f"of atom {array[row, atom]} (Z = {numbers[array[row, atom]]})."
            )
    _Rows(array).require_group()
    return array


class _Rows:
    """Rows that can be found again."""

    def __init__(self, perms: IntArray) -> None:
        self._perms = perms
        # A row is told by a sum of random marks, and compared element by element where the sum is found.
        n_atoms = perms.shape[1]
        self._marks = np.random.default_rng(0).integers(0, 2**64, (n_atoms, n_atoms), dtype=np.uint64)
        sums = self._sums(perms)
        self._order = np.argsort(sums, kind="stable")
        self._sorted = sums[self._order]

    def _sums(self, perms: IntArray) -> npt.NDArray[np.uint64]:
        sums = np.zeros(len(perms), dtype=np.uint64)
        for atom in range(perms.shape[1]):
            sums += self._marks[atom, perms[:, atom]]
        return sums

    def find(self, perms: IntArray) -> IntArray:
        """Return the number of each row, -1 where it is not there."""
        at = np.minimum(np.searchsorted(self._sorted, self._sums(perms)), len(self._sorted) - 1)
        found = self._order[at].astype(np.int64)
        found[(self._perms[found] != perms).any(axis=1)] = -1
        return found

    def require_group(self) -> None:
        """Raise DataError unless the rows are a group.

        If the rows times g are rows for each g of some that generate them all, they are closed: that is seen in
        P log P products instead of all P^2.
        """
        n_perms, n_atoms = self._perms.shape
        first = self.find(self._perms)
        if (first != np.arange(n_perms)).any():
            row = int(np.flatnonzero(first != np.arange(n_perms))[0])
            raise DataError(f"perms is no group: row {row} is the same as row {first[row]}.")
        identity = int(self.find(np.arange(n_atoms)[None])[0])
        if identity < 0:
            raise DataError("perms is no group: the identity is not among its rows.")
        reached = np.zeros(n_perms, dtype=bool)
        reached[identity] = True
        products: list[IntArray] = []  # of all rows with each generator
        while not reached.all():
            generator = int(np.argmin(reached))
            product = self.find(self._perms[:, self._perms[generator]])
            if (product < 0).any():
                row = int(np.argmin(product >= 0))
                raise DataError(
                    f"perms is no group: the product of its rows {row} and {generator}, "
                    f"{self._perms[row, self._perms[generator]].tolist()}, is not among them. Complete it with "
                    "fastgdml.permutations.complete_group."
                )
            products.append(product)
            front = np.flatnonzero(reached)
            while len(front):
                images = np.unique(np.concatenate([product[front] for product in products]))
                front = images[~reached[images]]
                reached[front] = True
