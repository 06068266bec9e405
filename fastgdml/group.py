"""A set of permutations as the index tables that the native core works with.

Besides the permutations themselves, the tables list what is distinct under them, so that work is shared: permutations
that take two atoms to the same places, and pairs of atoms that no permutation moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .descriptor import IntArray, pair_permutation
from .errors import DataError

Int32 = npt.NDArray[np.int32]


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

    perm: Int32
    inverse: Int32
    pair: Int32
    subset_begin: IntArray
    subset_perm: Int32
    column_begin: IntArray
    column_term: Int32
    image_begin: IntArray
    image_term: Int32
    fixed_begin: IntArray
    fixed: Int32
    moving_begin: IntArray
    moving: Int32

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
        pair = np.array([pair_permutation(q) for q in inverse], dtype=np.int32)

        # Every (p, a, c) with its c' = p[a] and e = q[c].
        shape = (n_perms, n_atoms, n_atoms)
        p = np.broadcast_to(np.arange(n_perms)[:, None, None], shape).ravel()
        a, c = (np.broadcast_to(x, shape).ravel() for x in np.mgrid[:n_atoms, :n_atoms])
        image = np.broadcast_to(perm[:, :, None], shape).ravel().astype(np.int64)
        source = np.broadcast_to(inverse[:, None, :], shape).ravel().astype(np.int64)
        key = ((a * n_atoms + c) * n_atoms + image) * n_atoms + source
        order = np.argsort(key, kind="stable")
        _, first, size = np.unique(key[order], return_index=True, return_counts=True)
        subset, subset_begin, subset_perm = _number_subsets(p[order], first, size, n_perms)
        a, c, image, source = (x[order][first] for x in (a, c, image, source))
        column_begin, column_term = _group_terms(a * n_atoms + c, image, source, subset, n_atoms)
        image_begin, image_term = _group_terms(a * n_atoms + image, c, source, subset, n_atoms)

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


def check_perms(perms: npt.ArrayLike) -> IntArray:
    """Return permutations as an integer array (P, N), or raise DataError when a row is none."""
    array = np.atleast_2d(np.asarray(perms, dtype=np.int64))
    if not np.array_equal(np.sort(array, axis=1), np.broadcast_to(np.arange(array.shape[1]), array.shape)):
        raise DataError(f"Each row of perms must be a permutation of 0..{array.shape[1] - 1}.")
    return array


def _number_subsets(members: IntArray, first: IntArray, size: IntArray, n_perms: int) -> tuple[Int32, IntArray, Int32]:
    """Return the number of the set that each run of `members` forms, and the distinct sets."""
    # A set is told by the sum of random 64-bit marks of its members: two sets agree by chance once in 10^19.
    marks = np.random.default_rng(0).integers(0, 2**64, n_perms, dtype=np.uint64)
    sums = np.add.reduceat(marks[members], first)
    _, example, number = np.unique(sums, return_index=True, return_inverse=True)
    sets = [members[first[k] : first[k] + size[k]] for k in example]
    return number.ravel().astype(np.int32), _offsets([len(s) for s in sets]), np.concatenate(sets).astype(np.int32)


def _group_terms(
    group: IntArray, atom: IntArray, source: IntArray, subset: Int32, n_atoms: int
) -> tuple[IntArray, Int32]:
    """Sort terms (atom, source, subset) by `group`; return where each group begins, and the terms."""
    order = np.argsort(group, kind="stable")
    begin = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=n_atoms**2))]).astype(np.int64)
    return begin, np.column_stack([atom, source, subset])[order].astype(np.int32)


def _partners(relation: npt.NDArray[np.bool_]) -> tuple[IntArray, Int32]:
    """Return the related atoms of each atom, ascending, and where those of each begin."""
    return _offsets(relation.sum(axis=1).tolist()), np.nonzero(relation)[1].astype(np.int32)


def _offsets(lengths: list[int]) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
