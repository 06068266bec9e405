"""A set of permutations as the index tables that the native core works with.

Besides the permutations themselves, the tables list what is distinct under them, so that work is shared: permutations
that take two atoms to the same places, and pairs of atoms that no permutation moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .descriptor import pair_permutation
from .perms import check_perms
from .types import Int32Array, IntArray


@dataclass(frozen=True)
class GroupTables:
    """Index tables of P permutations of N atoms; the layout is that of `gdml_group` in src/gdml.h.

    Attributes
    ----------
    perm : ndarray of int32, shape (P, N)
        Atom a goes to ``perm[p, a]``.
    inverse : ndarray of int32, shape (P, N)
        The inverse permutations q.
    pair : ndarray of int32, shape (P, D)
        Index of pair (q[a], q[b]) for pair (a, b): the pair permutation of the inverse.
    subset_begin, subset_perm : ndarray of int64 and int32
        Sets of permutations that act alike on some two atoms.
    column_begin, column_term : ndarray of int64, shape (N * N + 1,), and int32, shape (n, 3)
        For atoms (a, c): every (p[a], q[c]) that occurs, with the number of its subset.
    image_begin, image_term : ndarray of int64, shape (N * N + 1,), and int32, shape (n, 3)
        For atoms (a, c'): every (c, q[c]) under the permutations that take a to c', with the number of its subset.
    fixed_begin, fixed : ndarray of int64, shape (N + 1,), and int32
        For each atom, its partners in pairs that no permutation moves, ascending.
    moving_begin, moving : ndarray of int64, shape (N + 1,), and int32
        The other partners.
    """

    perm: Int32Array
    inverse: Int32Array
    pair: Int32Array
    subset_begin: IntArray
    subset_perm: Int32Array
    column_begin: IntArray
    column_term: Int32Array
    image_begin: IntArray
    image_term: Int32Array
    fixed_begin: IntArray
    fixed: Int32Array
    moving_begin: IntArray
    moving: Int32Array

    @property
    def n_distinct(self) -> int:
        """Number of atoms that the permutations tell apart: the orbits of the group."""
        return len(np.unique(self.perm.min(axis=0)))

    @classmethod
    def from_perms(cls, perms: npt.ArrayLike) -> GroupTables:
        """Build the tables from permutations of atoms, shape (P, N).

        Raises
        ------
        DataError
            If a row is no permutation.
        """
        perm = check_perms(perms).astype(np.int32)
        n_perms, n_atoms = perm.shape
        inverse = np.argsort(perm, axis=1).astype(np.int32)
        pair = np.array([pair_permutation(q).astype(np.int32) for q in inverse])

        # For one atom a after the other, so that memory stays small: every (c, c' = p[a], e = q[c]) and the
        # permutations that give it.
        subsets = _Subsets(n_perms)
        column, image = _Terms(n_atoms), _Terms(n_atoms)
        for a in range(n_atoms):
            key = (np.arange(n_atoms) * n_atoms + perm[:, a, None].astype(np.int64)) * n_atoms + inverse
            order = np.argsort(key, axis=None, kind="stable")
            distinct, first = np.unique(key.ravel()[order], return_index=True)
            marks = subsets.add((order // n_atoms).astype(np.int32), first)
            c, to, source = distinct // n_atoms**2, distinct // n_atoms % n_atoms, distinct % n_atoms
            column.add(c, to, source, marks)
            image.add(to, c, source, marks)
        subset_begin, subset_perm, number = subsets.finish()
        column_begin, column_term = column.finish(number)
        image_begin, image_term = image.finish(number)

        is_fixed = np.zeros((n_atoms, n_atoms), dtype=bool)
        high, low = np.tril_indices(n_atoms, -1)
        is_fixed[high, low] = is_fixed[low, high] = (pair == np.arange(pair.shape[1])).all(axis=0)
        fixed_begin, fixed = _partners(is_fixed)
        moving_begin, moving = _partners(~is_fixed & ~np.eye(n_atoms, dtype=bool))
        return cls(
            np.ascontiguousarray(perm),
            inverse,
            pair,
            subset_begin,
            subset_perm,
            column_begin,
            column_term,
            image_begin,
            image_term,
            fixed_begin,
            fixed,
            moving_begin,
            moving,
        )


class _Subsets:
    """The distinct sets of permutations among those that are added."""

    def __init__(self, n_perms: int) -> None:
        # A set is told by the sum of random 64-bit marks of its members: two sets agree by chance once in 10^19.
        self._mark = np.random.default_rng(0).integers(0, 2**64, n_perms, dtype=np.uint64)
        self._known = np.empty(0, dtype=np.uint64)
        self._sets: dict[int, Int32Array] = {}

    def add(self, members: Int32Array, first: IntArray) -> npt.NDArray[np.uint64]:
        """Add the sets that `members` consists of, each beginning at one of `first`; return what tells them."""
        sums = np.add.reduceat(self._mark[members], first)
        end = np.append(first[1:], len(members))
        new, example = np.unique(sums, return_index=True)
        unknown = ~np.isin(new, self._known, assume_unique=True, kind="sort")  # NumPy 2.0's tables fail on unsigned
        for mark, k in zip(new[unknown].tolist(), example[unknown], strict=True):
            self._sets[mark] = members[first[k] : end[k]].copy()
        self._known = np.union1d(self._known, new)
        return sums

    def finish(self) -> tuple[IntArray, Int32Array, Callable[[npt.NDArray[np.uint64]], Int32Array]]:
        """Return where each set begins, the members of all, and a function from marks to numbers of sets."""
        sets = [self._sets[mark] for mark in self._known.tolist()]
        known = self._known
        return (
            _offsets([len(s) for s in sets]),
            np.concatenate(sets),
            lambda marks: np.searchsorted(known, marks).astype(np.int32),
        )


class _Terms:
    """Terms (atom, source, subset) in groups, first by an outer atom, then by an inner one."""

    def __init__(self, n_atoms: int) -> None:
        self._n_atoms = n_atoms
        self._sizes: list[IntArray] = []
        self._parts: list[tuple[Int32Array, npt.NDArray[np.uint64]]] = []

    def add(self, inner: IntArray, atom: IntArray, source: IntArray, marks: npt.NDArray[np.uint64]) -> None:
        """Add the terms of the next outer atom."""
        order = np.argsort(inner, kind="stable")
        self._sizes.append(np.bincount(inner, minlength=self._n_atoms))
        self._parts.append((np.column_stack([atom, source])[order].astype(np.int32), marks[order]))

    def finish(self, number: Callable[[npt.NDArray[np.uint64]], Int32Array]) -> tuple[IntArray, Int32Array]:
        """Return where each group begins, and the terms."""
        begin = np.concatenate([[0], np.cumsum(np.concatenate(self._sizes))]).astype(np.int64)
        terms = np.empty((begin[-1], 3), dtype=np.int32)
        at = 0
        for atoms, marks in self._parts:
            terms[at : at + len(atoms), :2] = atoms
            terms[at : at + len(atoms), 2] = number(marks)
            at += len(atoms)
        return begin, terms


def _partners(relation: npt.NDArray[np.bool_]) -> tuple[IntArray, Int32Array]:
    """Return the related atoms of each atom, ascending, and where those of each begin."""
    return _offsets(relation.sum(axis=1).tolist()), np.nonzero(relation)[1].astype(np.int32)


def _offsets(lengths: list[int]) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
