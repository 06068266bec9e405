import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import minimum_spanning_tree
from support.molecules import random_molecules

from fastgdml import _core
from fastgdml.cell import Cell
from fastgdml.dataset import load_dataset
from fastgdml.errors import DataError
from fastgdml.permutations import _cycles, complete_group, find_perms, match_all, salvage_subgroup


@pytest.mark.parametrize("molecule", ["ethanol", "aspirin"])
def test_finds_what_sgdml_finds(shared, molecule):
    with np.load(shared("reference/permutation_search.npz")) as search:
        idxs, perms = search[f"{molecule}_idxs"], search[f"{molecule}_perms"]
    dataset = load_dataset(shared(f"data/xtb_{molecule}.npz"))
    np.testing.assert_array_equal(find_perms(dataset["R"][idxs], dataset["z"]), perms)


def test_finds_what_sgdml_finds_in_small_samples(reference):
    if reference["case"] in ("ethanol_gdml", "aspirin_sgdml"):
        pytest.skip("the permutations of this case were given, not searched for")
    np.testing.assert_array_equal(
        find_perms(reference["R_train"], reference["z"], Cell.of(reference)), reference["perms"]
    )


def test_geometries_that_hardly_differ_are_matched():
    """Distances of distance matrices far below 1; equal geometries, at distance 0, lead nowhere."""
    water = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    R = water + 1e-3 * np.random.default_rng(2).normal(size=(8, 3, 3))
    R[::2] = R[::2, [0, 2, 1]]
    z = np.array([8, 1, 1])
    np.testing.assert_array_equal(find_perms(np.concatenate([R, R]), z), [[0, 1, 2], [0, 2, 1]])
    np.testing.assert_array_equal(find_perms(np.tile(R[:1], (4, 1, 1)), z), [[0, 1, 2]])


def test_threads_do_not_matter(ethanol):
    R, z = ethanol["R"][:60], ethanol["z"]
    for one, many in zip(match_all(R, z, n_threads=1), match_all(R, z, n_threads=3), strict=True):
        np.testing.assert_array_equal(one, many)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_assignment_is_optimal(n, seed):
    """gdml_match with random 'eigenvectors' solves the assignment of its cost matrix as SciPy does."""
    rng = np.random.default_rng(seed)
    vectors = rng.uniform(0, 1, (2, n, n))
    distances = np.abs(rng.normal(size=(2, n, n)))
    penalty = (rng.integers(0, 2, n)[:, None] != rng.integers(0, 2, n)).astype(float)
    perms, before, after = np.empty((1, n), dtype=np.int32), np.empty(1), np.empty(1)
    _core.match_all_pairs(vectors, distances, penalty, np.array([[0, 1]]), perms, before, after, 1)
    cost = -vectors[0] @ vectors[1].T
    cost += penalty * np.abs(cost).max()
    rows, cols = linear_sum_assignment(cost)
    assert sorted(perms[0]) == list(range(n))
    assert cost[rows, perms[0]].sum() == pytest.approx(cost[rows, cols].sum(), abs=1e-12)
    moved = distances[0][np.ix_(perms[0], perms[0])]
    assert before[0] == pytest.approx(np.linalg.norm(distances[0] - distances[1]))
    assert after[0] == pytest.approx(np.linalg.norm(moved - distances[1]))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 15), st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_spanning_tree_is_that_of_scipy(n, seed, n_weights):
    """Few different weights: ties must be broken as in SciPy, which sgdml uses."""
    pairs = np.column_stack(np.triu_indices(n, 1)).astype(np.int64).reshape(-1, 2)
    weight = np.random.default_rng(seed).integers(1, n_weights + 1, len(pairs)).astype(float)
    tree = _core.spanning_tree(n, pairs, np.argsort(weight, kind="stable"))
    full = np.full((n, n), np.inf)
    full[tuple(pairs.T)] = full[tuple(pairs.T[::-1])] = weight
    expected = minimum_spanning_tree(csr_matrix(full)).nonzero()
    assert {tuple(p) for p in pairs[tree]} == set(zip(*expected, strict=True))


def test_a_hidden_permutation_is_found():
    """Methane-like: shuffling equal atoms of one shape must be recognised as a symmetry."""
    rng = np.random.default_rng(0)
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.63
    R = np.array([np.vstack([[0, 0, 0], corners[rng.permutation(4)]]) for _ in range(40)])
    R += rng.normal(scale=0.08, size=R.shape)
    perms = find_perms(R, np.array([6, 1, 1, 1, 1]))
    assert len(perms) == 24
    assert (perms[:, 0] == 0).all()


def test_different_elements_are_never_exchanged():
    R = random_molecules(20, 5)
    perms = find_perms(R, np.arange(1, 6))
    np.testing.assert_array_equal(perms, [np.arange(5)])


def test_closure_and_its_cap():
    turn = np.array([[1, 2, 3, 4, 5, 6, 0]])
    group = complete_group(turn)
    assert len(group) == 7
    assert complete_group(turn, max_group_size=7) is None
    swap = np.array([[1, 0, *range(2, 7)], [1, 2, 3, 4, 5, 6, 0]])
    assert complete_group(swap, max_group_size=100) is None


def test_groups_of_thousands_close():
    """Translations of a 12 x 12 x 12 ring of rings, and a dihedral group."""
    atoms = np.arange(12**3).reshape(12, 12, 12)
    shifts = np.array([np.roll(atoms, -1, axis=axis).ravel() for axis in range(3)])
    group = complete_group(shifts, max_group_size=2000)
    assert len(group) == 12**3
    assert len(np.unique(group[:, 0])) == 12**3
    ring = np.arange(500)
    dihedral = complete_group(np.array([np.roll(ring, 1), ring[::-1]]))
    assert len(np.unique(dihedral, axis=0)) == 1000


@settings(max_examples=30, deadline=None)
@given(st.lists(st.permutations(range(4)), min_size=1, max_size=3))
def test_the_closure_is_a_group(generators):
    group = complete_group(np.unique(np.array(generators), axis=0))
    members = {tuple(p) for p in group}
    assert len(members) == len(group)
    assert tuple(range(4)) in members
    assert {tuple(p[q]) for p in group for q in group} == members


def test_salvage_keeps_what_touches_no_longer_cycle():
    perms = np.array([[1, 0, 2, 3, 4, 5], [1, 2, 0, 3, 4, 5], [0, 1, 2, 4, 3, 5], [0, 1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(salvage_subgroup(perms), perms[1:])


def test_cycles():
    assert sorted(_cycles(np.array([1, 2, 0, 3])), key=len) == [frozenset({3}), frozenset({0, 1, 2})]


@pytest.mark.parametrize(
    ("R", "z"),
    [
        (np.zeros((0, 3, 3)), [1, 1, 1]),
        (np.zeros((3, 3)), [1, 1, 1]),
        (np.zeros(9), [1, 1, 1]),
        (np.arange(24.0).reshape(2, 4, 3), [1, 1, 1]),
        (np.arange(24.0).reshape(2, 4, 3), [[1, 1, 1, 1]]),
        (np.arange(24.0).reshape(2, 4, 3), 1),
        (np.arange(16.0).reshape(2, 4, 2), [1, 1, 1, 1]),
        (np.ones((2, 1, 3)), [1]),
        (np.full((2, 4, 3), np.nan), [1, 1, 1, 1]),
    ],
)
def test_what_has_no_permutations_is_refused(R, z):
    with pytest.raises(DataError):
        find_perms(R, z)
