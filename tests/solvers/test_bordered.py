"""The factor that grows: its rows against LAPACK's factor of the whole, and the model against a fresh training."""

import numpy as np
import pytest
import scipy.linalg

from fastgdml.kernel import assemble_selected
from fastgdml.learning.growing import GrowingModel, Labelled, System, task_of
from fastgdml.predict import GDMLPredict
from fastgdml.solvers.bordered import BorderedFactor
from fastgdml.train import GDMLTrain


def spd(n, condition, seed=0):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    return (Q * np.geomspace(1, 1 / condition, n)) @ Q.T


def grown(M, sizes):
    factor, n = BorderedFactor(1), 0
    for q in sizes:
        assert factor.append(M[n : n + q, :n], M[n : n + q, n : n + q])
        n += q
    return factor


def rows_of(factor):
    L, n = np.zeros((factor.order, factor.order)), 0
    for rows in factor._rows:
        L[n : n + len(rows), : rows.shape[1]] = rows
        n += len(rows)
    return np.tril(L)


@pytest.mark.parametrize("sizes", [(1,), (3, 1, 7, 4), (21,) * 8], ids=str)
def test_factor_inverse_and_solutions(sizes):
    M = spd(sum(sizes), 1e6)
    factor = grown(M, sizes)
    L = scipy.linalg.cholesky(M, lower=True)
    np.testing.assert_allclose(rows_of(factor), L, atol=1e-13)
    columns = factor.invert()
    inverse = columns(0, factor.order)
    np.testing.assert_allclose(inverse @ L, np.eye(len(M)), atol=1e-10)  # 1e-16 times the condition of L, 1e3
    first, last = len(M) // 3, max(len(M) // 2, len(M) // 3 + 1)
    np.testing.assert_array_equal(columns(first, last), inverse[:, first:last])
    rhs = np.random.default_rng(1).normal(size=(len(M), 3))
    expected = scipy.linalg.cho_solve((L, True), rhs)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(factor.solve(rhs), expected, atol=1e-9 * scale)
    np.testing.assert_allclose(factor.solve(rhs[:, 0]), expected[:, 0], atol=1e-9 * scale)


@pytest.mark.parametrize("bad", ["repeated", "indefinite", "not finite"])
def test_what_is_not_positive_definite_changes_nothing(bad):
    M = spd(12, 1e3)
    factor = grown(M, (5, 3))
    before = rows_of(factor)
    border, block = M[8:, :8].copy(), M[8:, 8:].copy()
    if bad == "repeated":
        border, block = M[2:5, :8], M[2:5, 2:5] * (1 - 1e-12)
    elif bad == "indefinite":
        block -= np.eye(4)
    else:
        border[0, 0] = np.nan
    assert not factor.append(border, block)
    assert (factor.order, factor.n_points) == (8, 2)
    np.testing.assert_array_equal(rows_of(factor), before)
    assert factor.append(M[8:, :8], M[8:, 8:])


def labelled(dataset, idxs):
    return Labelled(*(np.asarray(dataset[key])[idxs].astype(float) for key in ("R", "F")), np.ravel(dataset["E"])[idxs])


@pytest.fixture(scope="module")
def task(ethanol):
    return GDMLTrain().create_task(ethanol, 40, ethanol, 20, sig=20, seed=3)


@pytest.fixture(scope="module")
def system(ethanol):
    return System(ethanol["z"], None, "kcal/mol", "Ang", "ethanol", "unknown")


def test_a_grown_model_is_a_fresh_one(ethanol, task, system):
    """Factor, coefficients, leave-one-out residuals, samples, whichever way the points came."""
    points = labelled(ethanol, task["idxs_train"])
    model = GrowingModel(system, task["perms"], 20.0)
    assert model.add(points[:25]) == 25
    assert [model.add(points[i : i + 1]) for i in range(25, 40)] == [1] * 15
    equations = model._equations(model._task(points))
    rows = equations.reduction.rows
    M = -assemble_selected(equations.training, rows)
    for i, S in enumerate(equations.reduction.gram_inverse):
        own = slice(rows.begin[i], rows.begin[i + 1])
        M[own, own] += model.lam * S
    L, G = scipy.linalg.cholesky(M, lower=True), rows_of(model._factor)
    size = np.abs(M).max()
    # both have errors of the last digits; the condition of M, about 1e10, comes between those and the factors
    assert np.abs(G @ G.T - M).max() < 1e-14 * size
    assert np.abs(G - L).max() < 1e-10 * np.abs(L).max()

    own = model.model()
    fresh = GDMLTrain().train(task_of(system, points, task["perms"], 20.0), solver="closed", n_std=16)
    for key, tolerance in (
        ("alphas_F", 1e-5),
        ("std_R_d_desc_alpha", 1e-5),
        ("loo_f", 1e-5),
        ("c", 1e-7),
        ("std", 1e-14),
    ):
        assert np.abs(own[key] - fresh[key]).max() < tolerance * np.abs(fresh[key]).max(), key
    R = ethanol["R"][-50:].reshape(50, -1)
    of_own, of_fresh = (GDMLPredict(m).predict(R, return_std=True) for m in (own, fresh))
    for a, b in zip(of_own, of_fresh, strict=True):
        assert np.abs(a - b).max() < 1e-6 * np.abs(b - b.mean()).max()


def test_a_new_kernel_takes_all_points_along(ethanol, task, system):
    points = labelled(ethanol, task["idxs_train"][:12])
    identity = np.arange(9)[None, :]
    changed = GrowingModel(system, identity, 10.0)
    changed.add(points)
    changed.set_kernel(task["perms"], 30.0)
    made_so = GrowingModel(system, task["perms"], 30.0)
    made_so.add(points)
    np.testing.assert_array_equal(changed.model()["alphas_F"], made_so.model()["alphas_F"])


def test_a_point_twice_is_left_out(ethanol, task, system):
    points = labelled(ethanol, task["idxs_train"][:12])
    model = GrowingModel(system, task["perms"], 20.0, lam=0.0)
    model.add(points)
    assert model.add(points[3:4]) == 0
    assert len(model) == len(model.points) == 12


def test_the_length_scale_is_that_of_the_smallest_leave_one_out_error(ethanol, task, system):
    model = GrowingModel(system, task["perms"], 10.0)
    model.add(labelled(ethanol, task["idxs_train"]))
    best = model.best_sigma()
    model.set_kernel(model.perms, best)
    error = np.abs(model.model()["loo_f"]).mean()
    for sig in (best / 2, best * 2):
        model.set_kernel(model.perms, sig)
        assert np.abs(model.model()["loo_f"]).mean() > error
