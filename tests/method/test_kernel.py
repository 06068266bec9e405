from itertools import permutations

import numpy as np
import pytest
from reference import kernel_matrix
from scipy.linalg.lapack import dtfttr
from support.molecules import cyclic_group, random_molecules, symmetric_group_of_three

from fastgdml.cell import Cell
from fastgdml.errors import UsageError
from fastgdml.kernel import Coordinates, assemble_columns, assemble_full, assemble_packed, energies_last
from fastgdml.training_set import TrainingSet


def setup(R, perms, sig, energies=False, lattice=None):
    return TrainingSet.from_R(R, perms, sig, energies, None if lattice is None else Cell(lattice, "rounding"))


SYSTEMS = [
    (2, [[0, 1]]),
    (2, [[0, 1], [1, 0]]),
    (3, symmetric_group_of_three(3)),
    (5, [[0, 1, 2, 3, 4]]),
    (5, cyclic_group(5, 5)),
    (7, symmetric_group_of_three(7)),
    (5, list(permutations(range(5)))),  # 120 members: several chunks of permutations
]
LATTICE = np.array([[6.0, 1.0, 0.5], [0.0, 5.0, -0.7], [0.2, 0.0, 7.0]])


@pytest.mark.parametrize(("n_atoms", "perms"), SYSTEMS)
@pytest.mark.parametrize("n_train", [1, 3, 11])
def test_equals_oracle(n_atoms, perms, n_train, isa):
    R = random_molecules(n_train, n_atoms)
    K = assemble_full(setup(R, perms, 4.0))
    expected = kernel_matrix(R, perms, 4.0)
    np.testing.assert_allclose(K, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    np.testing.assert_allclose(K, K.T, rtol=0, atol=1e-15 * np.abs(expected).max())


def with_energies_last(K, n_train, n_atoms):
    order = energies_last(n_train, n_atoms)
    return K[np.ix_(order, order)]


def assert_blocks_close(K, expected, n_forces):
    """Compare blocks of forces and energies, each on its own scale: theirs differ by orders of magnitude."""
    scale = np.sqrt([np.abs(np.diag(expected)[part]).max() for part in (slice(n_forces), slice(n_forces, None))])
    for i, rows in enumerate((slice(n_forces), slice(n_forces, None))):
        for j, cols in enumerate((slice(n_forces), slice(n_forces, None))):
            np.testing.assert_allclose(K[rows, cols], expected[rows, cols], rtol=0, atol=1e-13 * scale[i] * scale[j])


@pytest.mark.parametrize(("n_atoms", "perms"), SYSTEMS)
@pytest.mark.parametrize("n_train", [1, 3, 11])
@pytest.mark.parametrize("lattice", [None, LATTICE], ids=["molecule", "periodic"])
def test_energies_equal_oracle(n_atoms, perms, n_train, lattice, isa):
    R = random_molecules(n_train, n_atoms)
    K = assemble_full(setup(R, perms, 4.0, True, lattice))
    K = with_energies_last(K, n_train, n_atoms)
    assert_blocks_close(K, kernel_matrix(R, perms, 4.0, lattice, energies=True), R.size)
    assert_blocks_close(K, K.T, R.size)


def test_force_columns_are_derivatives_of_energy_columns():
    """F = d(-E)/dr: K_FF and K_EF are the derivatives of K_FE and K_EE by the geometry of the column."""
    r_i, r_j = random_molecules(2, 5)
    h = 1e-4
    steps = h * np.eye(15).reshape(15, 5, 3)
    R = np.concatenate([[r_i, r_j], r_j + steps, r_j - steps])
    K = assemble_full(setup(R, cyclic_group(5, 3), 2.0, True)).reshape(32, 16, 32, 16)
    slopes = (K[0, :, 2:17, 15] - K[0, :, 17:, 15]) / (2 * h)
    # error of order h^2 times third derivatives, and of rounding, 1e-16 / h
    np.testing.assert_allclose(slopes, K[0, :, 1, :15], rtol=0, atol=1e-7 * np.abs(K[0, :, 1, :15]).max())


def test_equals_sgdml(reference, isa):
    energies = bool(reference["use_E_cstr"])
    n_train, n_atoms = reference["R_train"].shape[:2]
    K = assemble_full(
        TrainingSet.from_R(reference["R_train"], reference["perms"], reference["sig"], energies, Cell.of(reference))
    )
    if energies:
        K = with_energies_last(K, n_train, n_atoms)
        assert_blocks_close(K, reference["K"], 3 * n_atoms * n_train)
    np.testing.assert_allclose(K, reference["K"], rtol=0, atol=1e-13 * np.abs(reference["K"]).max())


def test_columns_are_columns(isa):
    training = setup(random_molecules(10, 5), cyclic_group(5, 3), 3.0)
    K = assemble_full(training)
    cols = np.array([0, 1, 7, 29, 30, 31, 32, 100, 149])
    np.testing.assert_allclose(assemble_columns(training, cols), K[:, cols], rtol=0, atol=1e-15 * np.abs(K).max())
    assert assemble_columns(training, []).shape == (150, 0)


@pytest.mark.parametrize(
    "cols",
    [
        [15],  # one energy alone
        [15, 31, 47, 159],  # energies only
        [0, 14, 15, 16, 100, 111, 112, 159],  # forces and energies
    ],
)
def test_columns_with_energies_are_columns(cols, isa):
    training = setup(random_molecules(10, 5), cyclic_group(5, 3), 3.0, True)
    K = assemble_full(training)
    part = assemble_columns(training, cols)
    np.testing.assert_array_equal(part, K[:, cols])


@pytest.mark.parametrize("cols", [[1, 0], [0, 0], [-1], [150]])
def test_bad_columns_are_refused(cols):
    with pytest.raises(UsageError, match="ascending"):
        assemble_columns(setup(random_molecules(10, 5), [range(5)], 3.0), cols)


@pytest.mark.parametrize("n_train", [1, 2, 9, 10])  # even and odd orders are packed differently
@pytest.mark.parametrize("n_dropped", [0, 1, 4])
def test_packed_equals_full(n_train, n_dropped, isa):
    rng = np.random.default_rng(n_train)
    training = setup(random_molecules(n_train, 5), cyclic_group(5, 3), 3.0)
    kept = [np.sort(rng.choice(15, 15 - n_dropped - i % 2, replace=False)) for i in range(n_train)]
    rows = Coordinates.from_lists(kept)
    packed = assemble_packed(training, rows, scale=-2.0)
    unpacked, info = dtfttr(rows.size, packed, transr="N", uplo="L")
    assert info == 0
    picked = np.concatenate([15 * i + k for i, k in enumerate(kept)])
    expected = -2 * assemble_full(training)[np.ix_(picked, picked)]
    np.testing.assert_allclose(np.tril(unpacked), np.tril(expected), rtol=0, atol=1e-15 * np.abs(expected).max())


@pytest.mark.parametrize("n_train", [1, 2, 9, 10])
def test_packed_with_energies_of_some_points_equals_full(n_train, isa):
    rng = np.random.default_rng(n_train)
    training = setup(random_molecules(n_train, 5), cyclic_group(5, 3), 3.0, True)
    kept = [np.sort(rng.choice(16, 12, replace=False)) for _ in range(n_train)]
    assert n_train < 9 or 0 < sum(15 in k for k in kept) < n_train
    rows = Coordinates.from_lists(kept)
    unpacked, info = dtfttr(rows.size, assemble_packed(training, rows, scale=-2.0), transr="N", uplo="L")
    assert info == 0
    picked = np.concatenate([16 * i + k for i, k in enumerate(kept)])
    expected = -2 * assemble_full(training)[np.ix_(picked, picked)]
    np.testing.assert_allclose(np.tril(unpacked), np.tril(expected), rtol=0, atol=1e-15 * np.abs(expected).max())


@pytest.mark.parametrize("energies", [False, True])
def test_bits_do_not_depend_on_threads(energies):
    training = setup(random_molecules(40, 9), symmetric_group_of_three(9), 5.0, energies)
    one = assemble_full(training, n_threads=1)
    for n_threads in (2, 3, 7):
        np.testing.assert_array_equal(one, assemble_full(training, n_threads=n_threads))


@pytest.mark.parametrize("energies", [False, True])
def test_kernel_is_negative_semidefinite(energies):
    K = assemble_full(setup(random_molecules(12, 5), cyclic_group(5, 5), 2.0, energies))
    eigenvalues = np.linalg.eigvalsh(K)
    assert eigenvalues.max() < 1e-14 * -eigenvalues.min()


def test_progress_ends_at_the_total():
    calls = []
    training = setup(random_molecules(30, 4), [range(4)], 3.0)
    assemble_full(training, progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1] > 0
