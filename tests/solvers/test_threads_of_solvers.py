"""Trained models have the same bits with any number of threads: what one does at a time does not depend on it."""

import numpy as np
import pytest

from fastgdml import lapack
from fastgdml.threads import blas_threads
from fastgdml.train import GDMLTrain

# Large enough for several tiles and strips of everything: orders 2520 and 3240, 200 columns or more.
N_POINTS = 120


def models(task, **options):
    return [GDMLTrain(max_processes=n).train(task, **options) for n in (1, 2, 5)]


def assert_same_bits(models, *entries):
    for other in models[1:]:
        for name in entries:
            np.testing.assert_array_equal(other[name], models[0][name], err_msg=name)


@pytest.fixture(scope="module")
def task(ethanol):
    return GDMLTrain().create_task(ethanol, N_POINTS, ethanol, 20, sig=20, lam=1e-10, seed=3)


def test_closed_form_and_its_samples(task):
    assert_same_bits(models(task, solver="closed", n_std=3), "R_d_desc_alpha", "c", "std_R_d_desc_alpha", "std_scale")


def test_closed_form_in_single_precision(task, caplog):
    with caplog.at_level("INFO", "fastgdml"):
        assert_same_bits(models(task, solver="closed"), "R_d_desc_alpha", "c")
    assert caplog.text.count("Factored in single precision") == 3


def test_iteration_and_its_samples(task):
    found = models(task, solver="cg", n_std=2)
    assert_same_bits(found, "solver_iters", "inducing_pts_idxs", "R_d_desc_alpha", "c", "std_R_d_desc_alpha")
    assert len(found[0]["inducing_pts_idxs"]) > 256


def test_energies_in_the_equations(ethanol):
    task = GDMLTrain().create_task(ethanol, 60, ethanol, 20, sig=20, lam=1e-10, seed=3, use_E_cstr=True)
    assert_same_bits(models(task), "R_d_desc_alpha", "alphas_E", "c")


@pytest.mark.parametrize(("m", "q"), [(0, 3), (5, 27), (300, 63)])  # the last are more than one thread multiplies
def test_products_with_blocks(m, q):
    rng = np.random.default_rng(m)
    R, x = np.tril(rng.normal(size=(m, q, q))), rng.normal(size=m * q)
    for transposed, matrices in ((False, R), (True, R.swapaxes(1, 2))):
        one, other = (lapack.multiply_triangles(R, x, transposed, n_threads) for n_threads in (1, 3))
        np.testing.assert_array_equal(one, other)
        expected = np.einsum("iab,ib->ia", matrices, x.reshape(m, q)).ravel()
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("q", [1, 27, 63])
def test_roots_of_blocks(q):
    rng = np.random.default_rng(q)
    A = rng.normal(size=(7, q, q))
    A = A @ A.swapaxes(1, 2)
    A[1] = 0.0  # what all columns explain
    A[2] -= 2e-2 * np.linalg.norm(A[2]) * np.eye(q)  # has eigenvalues below the shift
    (R, failed), (other, _) = (lapack.inverse_roots(A, 1e-3, 1e-2, n_threads) for n_threads in (1, 3))
    assert failed == -1
    np.testing.assert_array_equal(R, other)
    np.testing.assert_array_equal(R, np.tril(R))
    shift = 1e-3 + 1e-2 * np.linalg.norm(A, axis=(1, 2))
    shift[2] = 1e-3 + 1e-1 * np.linalg.norm(A[2]) if q > 1 else shift[2]
    shifted = A + shift[:, None, None] * np.eye(q)
    np.testing.assert_allclose(R @ shifted @ R.swapaxes(1, 2), np.broadcast_to(np.eye(q), R.shape), rtol=0, atol=1e-10)


def test_a_block_without_a_root_is_named():
    blocks = np.stack([np.eye(3), np.diag([1.0, 1.0, np.nan]), np.zeros((3, 3))])
    assert lapack.inverse_roots(blocks, 0.0, 1e-2, 2)[1] == 1
    assert lapack.inverse_roots(blocks[[0, 2]], 0.0, 1e-2, 2)[1] == 1


@pytest.mark.parametrize("n", [600, 1301])
def test_linear_algebra(n):
    rng = np.random.default_rng(n)
    A = rng.normal(size=(n, n))
    A = A @ A.T + n * np.eye(n)
    rhs = rng.normal(size=(150, n))

    def results(n_threads):
        dense, packed, gram = np.array(A, order="F"), np.zeros(n * (n + 1) // 2), np.zeros((n, n), order="F")
        lapack.add_blocks(packed, n, np.array([0, n]), A[None].copy())
        solution = rhs.ravel().copy()
        with blas_threads(1):
            assert lapack.cholesky_dense(dense, n_threads) == 0
            assert lapack.cholesky(packed, n, n_threads) == 0
            lapack.solve(packed, n, solution, n_threads)
            assert lapack.invert_factor(packed, n, n_threads) == 0
            lapack.add_gram(rhs, gram, n_threads)
            divided = np.array(rhs, order="F")
            lapack.solve_triangular_right(dense, divided, n_threads)
        return np.tril(dense), packed, solution, gram, divided

    expected = results(1)
    np.testing.assert_allclose(expected[2].reshape(rhs.shape) @ A, rhs, rtol=0, atol=1e-9)
    np.testing.assert_allclose(expected[4] @ expected[0].T, rhs, rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.tril(expected[3]), np.tril(rhs.T @ rhs), rtol=0, atol=1e-10)
    for n_threads in (2, 7):
        for one, other in zip(expected, results(n_threads), strict=True):
            np.testing.assert_array_equal(one, other)
