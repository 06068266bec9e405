"""The closed form in single precision with refinement, against dense matrices and double precision."""

import logging

import numpy as np
import pytest
from reference import kernel_matrix
from support.molecules import cyclic_group, random_molecules

from fastgdml import lapack
from fastgdml.cell import Cell
from fastgdml.errors import InsufficientMemoryError
from fastgdml.solvers import mixed_precision
from fastgdml.solvers.choice import SolverOptions, choose, run
from fastgdml.solvers.cholesky import solve_closed_form, solve_once
from fastgdml.solvers.equations import TrainingEquations
from fastgdml.solvers.mixed_precision import solve
from fastgdml.solvers.processor import processor
from fastgdml.threads import blas_threads
from fastgdml.train import GDMLTrain
from fastgdml.training_set import TrainingSet

SIG, LAM = 3.0, 1e-10


def equations(R, perms=None, sig=SIG, lam=LAM, y_E=None, cell=None):
    y = np.random.default_rng(0).normal(size=R.size)
    training = TrainingSet.from_R(R, [range(R.shape[1])] if perms is None else perms, sig, y_E is not None, cell)
    return TrainingEquations(R, training, lam, y, y_E, cell is not None)


def packed(A):
    """LAPACK's rectangular full packed storage (TRANSR='N', UPLO='L'), in single precision."""
    n = len(A)
    n1 = n - n // 2
    rows = n + 1 if n % 2 == 0 else n
    square = np.zeros((rows, n1), order="F")
    square[n % 2 == 0 :, :][np.tril_indices(n, 0, n1)] = A[:, :n1][np.tril_indices(n, 0, n1)]
    trailing = np.triu(A[n1:, n1:].T)
    first = 0 if n % 2 == 0 else 1
    for c in range(n - n1):
        square[: c + 1, c + first] = trailing[: c + 1, c]
    return np.ascontiguousarray(square.ravel("F"))


def positive(n, seed=0):
    A = np.random.default_rng(seed).normal(size=(n, n))
    return A @ A.T + n * np.eye(n)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 301, 700])
def test_packed_storage(n):
    """What the other tests rest on: `packed` is what the factorisation in double precision takes."""
    A = positive(n)
    a = packed(A)
    assert a.shape == (n * (n + 1) // 2,)
    with blas_threads(1, 2):
        assert lapack.cholesky(a, n, 2) == 0
        x = np.ones(n)
        lapack.solve(a, n, x, 2)
    np.testing.assert_allclose(A @ x, np.ones(n), rtol=0, atol=1e-11)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 301, 700])
def test_factors_and_solutions_in_single_precision(n):
    A, b = positive(n), np.random.default_rng(1).normal(size=n)
    expected = packed(np.linalg.cholesky(A))
    found = []
    for n_threads in (1, 2, 5):
        with blas_threads(1, n_threads):
            a = packed(A).astype(np.float32)
            assert lapack.cholesky_single(a, n, n_threads, 64) == 0
            found.append((a, lapack.solve_single(a, b.astype(np.float32), n_threads)))
    for a, x in found[1:]:
        np.testing.assert_array_equal(a, found[0][0])
        np.testing.assert_array_equal(x, found[0][1])
    a, x = found[0]
    np.testing.assert_allclose(a, expected, rtol=0, atol=3e-6 * np.abs(expected).max())
    np.testing.assert_allclose(A @ x, b, rtol=0, atol=1e-4 * np.abs(b).max())


def test_a_matrix_without_a_factor():
    A = positive(300)
    A[200, 200] = -1.0
    with blas_threads(1, 2):
        assert lapack.cholesky_single(packed(A).astype(np.float32), 300, 2) == 201


@pytest.mark.parametrize("n", [7, 8, 611, 612])
@pytest.mark.parametrize("n_columns", [0, 3])
def test_the_residual(n, n_columns):
    """A - U U^T, in pieces of columns, with its diagonal raised."""
    A, U = positive(n), np.asfortranarray(np.random.default_rng(2).normal(size=(n, n_columns)))
    S = A - U @ U.T
    S[np.diag_indices(n)] *= 1.25
    found = []
    for n_threads in (1, 3):
        a = np.full(n * (n + 1) // 2, np.nan, dtype=np.float32)
        with blas_threads(1, n_threads):
            for first in range(0, n, n // 3):
                last = min(first + n // 3, n)
                lapack.set_residual(a, n, first, A[first:, first:last].copy("F"), U, 0.25, n_threads)
        found.append(a)
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], packed(S), rtol=2e-7, atol=1e-12 * n)


@pytest.mark.parametrize("n", [7, 8])
def test_isolated_rows(n):
    A, rows = positive(n), np.array([0, 2, n - 2])
    a = packed(A).astype(np.float32)
    lapack.isolate(a, n, rows)
    A[rows] = 0.0
    A[:, rows] = 0.0
    A[rows, rows] = 1.0
    np.testing.assert_array_equal(a, packed(A).astype(np.float32))


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("energies", [False, True])
def test_solutions_are_those_of_the_dense_matrix(energies, periodic):
    n_atoms, n_train = 6, 9
    R, perms, lattice = random_molecules(n_train, n_atoms), cyclic_group(n_atoms, 3), np.diag([5.0, 6.0, 7.0])
    cell = Cell(lattice, "rounding") if periodic else None
    these = equations(R, perms, lam=1e-8, y_E=np.ones(n_train) if energies else None, cell=cell)
    rows, blocks = these.reduction.rows, 1e-8 * these.reduction.padded_gram_inverse()
    K = kernel_matrix(R, perms, SIG, lattice if periodic else None, energies=energies)
    if energies:  # point by point
        last = np.arange(n_train * (3 * n_atoms + 1)).reshape(n_train, -1)
        order = np.argsort(np.concatenate([last[:, :-1].ravel(), last[:, -1]]))
        K = K[np.ix_(order, order)]
    n_coord = 3 * n_atoms + energies
    taken = np.concatenate([i * n_coord + rows.coord[rows.begin[i] : rows.begin[i + 1]] for i in range(n_train)])
    A = -K[np.ix_(taken, taken)]
    for i in range(n_train):
        here = slice(rows.begin[i], rows.begin[i + 1])
        A[here, here] += blocks[i, : here.stop - here.start, : here.stop - here.start]
    rhs = np.random.default_rng(3).normal(size=rows.size)
    x, steps = solve(these.training, rows, blocks, rhs, 2)
    assert 1 <= steps <= 20
    assert np.linalg.norm(A @ x - rhs) < 1e-7 * np.linalg.norm(rhs)
    np.testing.assert_allclose(x, np.linalg.solve(A, rhs), rtol=0, atol=1e-5 * np.abs(x).max())


@pytest.fixture(scope="module")
def ethanol_equations(ethanol):
    """Order 2100 and more: those that are solved so."""

    def make(energies=False, lam=1e-10, sig=20):
        R, y = ethanol["R"][:110], ethanol["F"][:110].ravel()
        perms = GDMLTrain().create_task(ethanol, 110, ethanol, 10, sig=20, lam=1e-10, seed=0)["perms"]
        training = TrainingSet.from_R(R, perms, sig, energies, None)
        return TrainingEquations(R, training, lam, y / y.std(), ethanol["E"][:110] - 1.0 if energies else None, False)

    return make


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize(("sig", "lam"), [(5, 1e-10), (20, 1e-10), (20, 1e-15), (100, 1e-15), (20, 1e-6)])
def test_real_equations(ethanol_equations, caplog, energies, sig, lam):
    these = ethanol_equations(energies, lam, sig)
    assert these.order >= mixed_precision.LEAST_ORDER
    with caplog.at_level(logging.INFO, "fastgdml"):
        once = solve_once(these, processor(2))
    assert "Factored in single precision" in caplog.text
    factored = solve_closed_form(these, processor(2))
    assert once.lam == factored.lam
    # Residuals, by the kernel as an operator: no larger than those of a factor in double precision.
    training, rows = these.training, these.reduction.rows
    blocks = once.lam * these.reduction.padded_gram_inverse()
    rhs = these.reduction.reduce(these.by_point(these.y, these.y_E))
    product = mixed_precision._Product(training, rows, blocks, 2)
    solutions = processor(2).solve(training, rows, blocks, rhs), factored.factor.solve(rhs)
    ours, theirs = (np.linalg.norm(product(x) - rhs) / np.linalg.norm(rhs) for x in solutions)
    assert ours < max(theirs, 2e-10)


def test_the_same_bits_for_any_number_of_threads(ethanol_equations):
    these = ethanol_equations()
    rows, blocks = these.reduction.rows, 1e-10 * these.reduction.padded_gram_inverse()
    rhs = np.random.default_rng(0).normal(size=rows.size)
    found = [solve(these.training, rows, blocks, rhs, n_threads) for n_threads in (1, 2, 5)]
    for x, steps in found[1:]:
        assert steps == found[0][1]
        np.testing.assert_array_equal(x, found[0][0])


def test_duplicates_are_factored_in_double_precision(ethanol, caplog):
    R = ethanol["R"][:110].copy()
    R[60] = R[3]
    y = ethanol["F"][:110].ravel()
    these = TrainingEquations(R, TrainingSet.from_R(R, [range(9)], 20, False, None), 0.0, y / y.std(), None, False)
    with caplog.at_level(logging.INFO, "fastgdml"):
        found = solve_once(these, processor(2))
    assert "Single precision is not enough" in caplog.text
    assert "points 3 and 60 have the same geometry" in caplog.text
    assert found.lam == solve_closed_form(these, processor(2)).lam > 0


def test_small_matrices_are_factored_in_double_precision(monkeypatch):
    monkeypatch.setattr(mixed_precision, "solve", lambda *_: pytest.fail("asked for"))
    these = equations(random_molecules(12, 5))
    np.testing.assert_array_equal(
        solve_once(these, processor(2)).alphas_F, solve_closed_form(these, processor(2)).alphas_F
    )


def test_where_double_precision_does_not_fit(ethanol_equations, monkeypatch, caplog):
    these, machine = ethanol_equations(), processor(2)
    needed = [machine.closed_form_memory(these, keeps_factor) for keeps_factor in (False, True)]
    assert needed[0] < needed[1]
    limit = sum(needed) / 2 / 2**30
    found = run(choose(these, SolverOptions("closed", max_memory=limit), machine))
    assert found.solver_name == "analytic"
    monkeypatch.setattr(mixed_precision, "solve", lambda *_: None)
    with pytest.raises(InsufficientMemoryError, match=r"Single precision is not enough .* Use the iterative solver"):
        run(choose(these, SolverOptions("closed", max_memory=limit), machine))
    monkeypatch.setattr("fastgdml.solvers.choice._SMALL_ORDER", 10**6)
    with caplog.at_level(logging.INFO, "fastgdml"):
        found = run(choose(these, SolverOptions("auto", max_memory=limit), machine))
    assert found.solver_name == "cg"
    assert found.converged
    assert "in double precision" in found.reason
