from itertools import permutations

import numpy as np
import pytest
from conftest import cyclic_group, random_molecules, symmetric_group_of_three
from reference import kernel_matrix
from scipy.linalg.lapack import dtfttr

from fastgdml.cell import Cell
from fastgdml.descriptor import from_R
from fastgdml.errors import UsageError
from fastgdml.group import GroupTables
from fastgdml.kernel import Coordinates, assemble_columns, assemble_full, assemble_packed


def setup(R, perms):
    x, g = from_R(R)
    return x, g, GroupTables.from_perms(perms)


@pytest.mark.parametrize(
    ("n_atoms", "perms"),
    [
        (2, [[0, 1]]),
        (2, [[0, 1], [1, 0]]),
        (3, symmetric_group_of_three(3)),
        (5, [[0, 1, 2, 3, 4]]),
        (5, cyclic_group(5, 5)),
        (7, symmetric_group_of_three(7)),
        (5, list(permutations(range(5)))),  # 120 members: several chunks of permutations
    ],
)
@pytest.mark.parametrize("n_train", [1, 3, 11])
def test_equals_oracle(n_atoms, perms, n_train, isa):
    R = random_molecules(n_train, n_atoms)
    K = assemble_full(*setup(R, perms), 4.0)
    expected = kernel_matrix(R, perms, 4.0)
    np.testing.assert_allclose(K, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    np.testing.assert_allclose(K, K.T, rtol=0, atol=1e-15 * np.abs(expected).max())


def test_equals_sgdml(reference, isa):
    K = assemble_full(*(setup_reference(reference)), float(reference["sig"]))
    np.testing.assert_allclose(K, reference["K"], rtol=0, atol=1e-13 * np.abs(reference["K"]).max())


def setup_reference(reference):
    x, g = from_R(reference["R_train"], Cell.of(reference))
    return x, g, GroupTables.from_perms(reference["perms"])


def test_columns_are_columns(isa):
    arguments = setup(random_molecules(10, 5), cyclic_group(5, 3))
    K = assemble_full(*arguments, 3.0)
    cols = np.array([0, 1, 7, 29, 30, 31, 32, 100, 149])
    np.testing.assert_allclose(
        assemble_columns(*arguments, 3.0, cols), K[:, cols], rtol=0, atol=1e-15 * np.abs(K).max()
    )
    assert assemble_columns(*arguments, 3.0, []).shape == (150, 0)


@pytest.mark.parametrize("cols", [[1, 0], [0, 0], [-1], [150]])
def test_bad_columns_are_refused(cols):
    with pytest.raises(UsageError, match="ascending"):
        assemble_columns(*setup(random_molecules(10, 5), [range(5)]), 3.0, cols)


@pytest.mark.parametrize("n_train", [1, 2, 9, 10])  # even and odd orders are packed differently
@pytest.mark.parametrize("n_dropped", [0, 1, 4])
def test_packed_equals_full(n_train, n_dropped, isa):
    rng = np.random.default_rng(n_train)
    arguments = setup(random_molecules(n_train, 5), cyclic_group(5, 3))
    kept = [np.sort(rng.choice(15, 15 - n_dropped - i % 2, replace=False)) for i in range(n_train)]
    rows = Coordinates.from_lists(kept)
    packed = assemble_packed(*arguments, 3.0, rows, scale=-2.0)
    unpacked, info = dtfttr(rows.size, packed, transr="N", uplo="L")
    assert info == 0
    picked = np.concatenate([15 * i + k for i, k in enumerate(kept)])
    expected = -2 * assemble_full(*arguments, 3.0)[np.ix_(picked, picked)]
    np.testing.assert_allclose(np.tril(unpacked), np.tril(expected), rtol=0, atol=1e-15 * np.abs(expected).max())


def test_bits_do_not_depend_on_threads():
    arguments = setup(random_molecules(40, 9), symmetric_group_of_three(9))
    one = assemble_full(*arguments, 5.0, n_threads=1)
    for n_threads in (2, 3, 7):
        np.testing.assert_array_equal(one, assemble_full(*arguments, 5.0, n_threads=n_threads))


def test_kernel_is_negative_semidefinite():
    K = assemble_full(*setup(random_molecules(12, 5), cyclic_group(5, 5)), 2.0)
    eigenvalues = np.linalg.eigvalsh(K)
    assert eigenvalues.max() < 1e-14 * -eigenvalues.min()


def test_progress_ends_at_the_total():
    calls = []
    arguments = setup(random_molecules(30, 4), [range(4)])
    assemble_full(*arguments, 3.0, progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1] > 0
