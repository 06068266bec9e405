import numpy as np
import pytest
from reference import descriptor, pair_permutation_matrix
from support.molecules import cyclic_group, random_molecules

from fastgdml.cell import Cell
from fastgdml.descriptor import (
    from_R,
    jacobian_dot,
    pair_permutation,
    perms_from_lin,
    tril_perms_lin,
)
from fastgdml.errors import DataError
from fastgdml.group import GroupTables


def dense(g):
    """Dense Jacobians (D, 3N) from compressed ones (D, 3)."""
    n_atoms = int((1 + np.sqrt(8 * len(g) + 1)) / 2)
    J = np.zeros((len(g), n_atoms, 3))
    for k, (a, b) in enumerate(zip(*np.tril_indices(n_atoms, -1), strict=True)):
        J[k, a], J[k, b] = -g[k], g[k]
    return J.reshape(len(g), -1)


@pytest.mark.parametrize("lattice", [None, np.array([[4.0, 1.0, 0.0], [0.0, 5.0, 0.3], [0.0, 0.0, 6.0]])])
@pytest.mark.parametrize("n_atoms", [2, 3, 9])
def test_equals_oracle(n_atoms, lattice, isa):
    R = random_molecules(4, n_atoms)
    x, g = from_R(R, None if lattice is None else Cell(lattice, "rounding"))
    for i, r in enumerate(R):
        x_ref, J_ref = descriptor(r, lattice)
        np.testing.assert_allclose(x[i], x_ref, rtol=1e-14)
        np.testing.assert_allclose(dense(g[i]), J_ref, rtol=1e-13, atol=1e-15)


def test_equals_sgdml(reference):
    x, g = from_R(reference["R_train"], Cell.of(reference))
    np.testing.assert_allclose(x, reference["R_desc"], rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(g, reference["R_d_desc"], rtol=1e-13, atol=1e-15)


def test_jacobian_is_the_derivative():
    r = random_molecules(1, 5)[0]
    _, g = from_R(r[None])
    J = dense(g[0])
    h = 1e-6
    for c in range(r.size):
        step = np.zeros(r.size)
        step[c] = h
        difference = from_R((r.ravel() + step).reshape(1, -1, 3))[0] - from_R((r.ravel() - step).reshape(1, -1, 3))[0]
        # central differences: error of order h^2 plus rounding 1e-16 / h
        np.testing.assert_allclose(J[:, c], difference[0] / (2 * h), atol=1e-8)


def test_jacobian_dot_is_the_dense_product():
    R, v = random_molecules(3, 6), np.random.default_rng(1).normal(size=(3, 18))
    _, g = from_R(R)
    np.testing.assert_allclose(jacobian_dot(g, v), [dense(gi) @ vi for gi, vi in zip(g, v, strict=True)], atol=1e-14)


def test_pair_permutation_is_the_matrix():
    perm = np.array([2, 0, 1, 4, 3])
    P = pair_permutation_matrix(perm)
    x = np.arange(10.0)
    np.testing.assert_array_equal(x[pair_permutation(perm)], P @ x)


def test_tril_perms_lin_equals_sgdml(reference):
    np.testing.assert_array_equal(tril_perms_lin(reference["perms"]), reference["tril_perms_lin"])


@pytest.mark.parametrize("n_atoms", [2, 3, 4, 5, 9])
def test_atom_permutations_are_recovered_from_pair_permutations(n_atoms):
    perms = cyclic_group(n_atoms, min(3, n_atoms))
    recovered = perms_from_lin(tril_perms_lin(perms), n_atoms * (n_atoms - 1) // 2)
    # Two atoms form one pair, which no permutation moves.
    np.testing.assert_array_equal(recovered, perms if n_atoms > 2 else np.tile([0, 1], (2, 1)))


def test_group_tables_invert():
    tables = GroupTables.from_perms([[1, 2, 0, 3]])
    np.testing.assert_array_equal(tables.inverse[0][tables.perm[0]], np.arange(4))
    np.testing.assert_array_equal(tables.pair[0], pair_permutation(tables.inverse[0]))


@pytest.mark.parametrize("perms", [[[0, 0, 1]], [[0, 1, 3]], [[-1, 0, 1]]])
def test_no_permutation_is_refused(perms):
    with pytest.raises(DataError, match="permutation"):
        GroupTables.from_perms(perms)


def test_coincident_atoms_are_named():
    R = random_molecules(3, 4)
    R[1, 3] = R[1, 2]
    with pytest.raises(DataError, match=r"geometry 1 .*\(atoms 2 and 3\)"):
        from_R(R)


def test_non_finite_coordinates_are_named():
    R = random_molecules(3, 4)
    R[2, 1, 0] = np.nan
    with pytest.raises(DataError, match=r"Geometry 2 .*atom 1"):
        from_R(R)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 2), (2, 1, 3)])
def test_bad_shapes_are_refused(shape):
    with pytest.raises(DataError, match="shape"):
        from_R(np.ones(shape))
