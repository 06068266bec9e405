"""Recovery of the permutational symmetries of a molecule from its geometries.

The steps and the result are sGDML's (Chmiela et al., Comput. Phys. Commun. 240, 38 (2019)): atoms of every pair of
geometries are matched through the eigenvectors of their distance matrices, matches are made consistent along a
minimum spanning tree, and the permutations on it are completed to a group.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .cell import Cell
from .descriptor import from_R
from .errors import DataError
from .native import _core
from .threads import resolve_n_threads
from .types import Array, IntArray

_log = logging.getLogger(__name__)

# sGDML's limit: a closure of this many permutations is taken as a sign of wrong matches.
MAX_GROUP_SIZE = 100

_PAIRS_PER_STEP = 20_000


def find_perms(
    R: npt.ArrayLike,
    z: npt.ArrayLike,
    cell: Cell | None = None,
    max_group_size: int = MAX_GROUP_SIZE,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IntArray:
    """Find the permutations of atoms that the geometries are symmetric under.

    Parameters
    ----------
    R : array_like, shape (M, N, 3)
        Geometries.
    z : array_like of int, shape (N,)
        Atomic numbers; only atoms of one element are exchanged.
    cell : Cell, optional
        Periodic cell or cells.
    max_group_size : int
        Give up the closure at this many permutations and keep a subgroup.
    n_threads : int, optional
        Number of threads; all by default.
    progress : callable, optional
        Called with (pairs of geometries matched, all pairs).

    Returns
    -------
    ndarray of int64, shape (P, N)
        The permutations, the identity among them.

    Raises
    ------
    DataError
        If the shapes of geometries and atomic numbers do not fit, a coordinate is not finite, or two atoms coincide.
    """
    R = np.asarray(R, dtype=np.float64)
    pairs, matches, better, cost = match_all(R, np.asarray(z), cell, n_threads, progress)
    tree_perms = _perms_along_tree(pairs, matches, better, cost)
    group = complete_group(tree_perms, max_group_size)
    if group is None:
        _log.warning(
            "The permutations found do not close to a group of fewer than %d members; keeping a subgroup. Like atoms "
            "may be listed in another order in some geometries; crystals need a larger limit (--max_group).",
            max_group_size,
        )
        group = complete_group(salvage_subgroup(tree_perms), max_group_size)
    if group is None:
        _log.warning("No subgroup closes either: training goes on without symmetries.")
        group = np.arange(R.shape[1])[None, :]
    return group


def match_all(
    R: Array,
    z: npt.NDArray[np.integer],
    cell: Cell | None = None,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[IntArray, IntArray, npt.NDArray[np.bool_], Array]:
    """Match the atoms of every pair of geometries i < j.

    Returns
    -------
    pairs : ndarray of int64, shape (M (M - 1) / 2, 2)
        The pairs.
    matches : ndarray of int64, shape (M (M - 1) / 2, N)
        The matching of each pair.
    better : ndarray of bool, shape (M (M - 1) / 2,)
        Whether it brings the geometries closer than the given order of atoms does.
    cost : ndarray, shape (M (M - 1) / 2,)
        Frobenius distance of the distance matrices under the better of matching and given order.

    Raises
    ------
    DataError
        As `find_perms`.
    """
    if R.ndim != 3 or len(R) == 0 or z.shape != R.shape[1:2]:
        raise DataError(
            "Permutations are found in geometries (n_geo >= 1, n_atoms, 3) with an atomic number for each atom; "
            f"found shapes {R.shape} and {z.shape}."
        )
    n_geo, n_atoms = R.shape[:2]
    distances = _distance_matrices(R, cell, n_threads)
    # Columns of the eigenvector matrix in descending order of the eigenvalues; signs do not matter.
    vectors = np.ascontiguousarray(np.abs(np.linalg.eigh(distances)[1])[:, :, ::-1])
    penalty = (z[:, None] != z[None, :]).astype(np.float64)

    pairs = np.column_stack(np.triu_indices(n_geo, 1)).astype(np.int64)
    matches = np.empty((len(pairs), n_atoms), dtype=np.int32)
    before, after = np.empty(len(pairs)), np.empty(len(pairs))
    threads = resolve_n_threads(n_threads)
    for start in range(0, len(pairs), _PAIRS_PER_STEP):
        part = slice(start, min(start + _PAIRS_PER_STEP, len(pairs)))
        _core.match_all_pairs(
            vectors, distances, penalty, pairs[part], matches[part], before[part], after[part], threads
        )
        if progress is not None:
            progress(part.stop, len(pairs))

    better = (after < before) & ~np.isclose(before, after)
    return pairs, matches.astype(np.int64), better, np.minimum(before, after)


def _distance_matrices(R: Array, cell: Cell | None, n_threads: int | None) -> Array:
    n_geo, n_atoms = R.shape[:2]
    a, b = np.tril_indices(n_atoms, -1)
    distances = np.zeros((n_geo, n_atoms, n_atoms))
    distances[:, a, b] = distances[:, b, a] = 1 / from_R(R, cell, n_threads)[0]
    return distances


def _perms_along_tree(pairs: IntArray, matches: IntArray, better: npt.NDArray[np.bool_], cost: Array) -> IntArray:
    """Return the matches on the minimum spanning tree of the mismatch, and the identity, sorted and unique."""
    order = np.argsort(cost, kind="stable")
    order = order[cost[order] > 0]  # identical geometries are no edges, as in sgdml's sparse graph
    tree = _core.spanning_tree(int(pairs.max(initial=0)) + 1, pairs, order)
    on_tree = matches[tree[better[tree]]]
    return np.unique(np.vstack([np.arange(matches.shape[1]), on_tree]), axis=0)


def complete_group(perms: IntArray, max_group_size: int | None = None) -> IntArray | None:
    """Complete permutations (P, N) to the group that they generate.

    Every member is reached by multiplying with generators one at a time. Given permutations that others generate are
    left out of these, and each of the rest at least doubles the group, so that P members cost P log(P) products.

    Parameters
    ----------
    perms : ndarray of int64, shape (P, N)
        The generators.
    max_group_size : int, optional
        Give up at this many members.

    Returns
    -------
    ndarray of int64, shape (P', N), or None
        The members, given ones first; None when there are `max_group_size` of them or more. Groups of fewer than
        `MAX_GROUP_SIZE` members come in the order in which sgdml finds them.
    """
    given = [np.asarray(p, dtype=np.int64) for p in perms]
    members = list(given)
    known = {p.tobytes() for p in members}
    generated: set[bytes] = set()
    generators: list[IntArray] = []
    for perm in given:
        if perm.tobytes() in generated:
            continue  # a product of others: no generator is needed for it
        generators.append(perm)
        reached = [perm]
        generated = {perm.tobytes()}
        for member in reached:  # grows while it is gone through
            for generator in generators:
                product = member[generator]
                key = product.tobytes()
                if key not in generated:
                    generated.add(key)
                    reached.append(product)
                    if key not in known:
                        known.add(key)
                        members.append(product)
                    if max_group_size is not None and len(members) >= max_group_size:
                        return None
    return np.array(members) if len(members) >= MAX_GROUP_SIZE else _in_order_of_sgdml(given)


def _in_order_of_sgdml(generators: list[IntArray]) -> IntArray:
    """Complete a small group by all products of pairs, round after round, as sgdml does."""
    members = list(generators)
    known = {p.tobytes() for p in members}
    n_before = 0
    while n_before < len(members):
        n_before = len(members)
        for i in range(n_before):
            for j in range(n_before):
                product = members[i][members[j]]
                if product.tobytes() not in known:
                    known.add(product.tobytes())
                    members.append(product)
    return np.array(members)


def salvage_subgroup(perms: IntArray) -> IntArray:
    """Return the permutations none of whose cycles touches a longer cycle of any of them."""
    cycles = [[c for c in _cycles(p) if len(c) > 1] for p in perms]
    every = [c for of_perm in cycles for c in of_perm]

    def touches_longer(cycle: frozenset[int]) -> bool:
        return any(len(cycle) < len(other) and cycle & other for other in every)

    keep = [i for i, of_perm in enumerate(cycles) if not any(touches_longer(c) for c in of_perm)]
    return perms[keep]


def _cycles(perm: IntArray) -> list[frozenset[int]]:
    """Return the disjoint cycles of a permutation as sets of atoms."""
    cycles, left = [], set(range(len(perm)))
    while left:
        atom = min(left)
        cycle = []
        while atom in left:
            left.remove(atom)
            cycle.append(atom)
            atom = int(perm[atom])
        cycles.append(frozenset(cycle))
    return cycles
