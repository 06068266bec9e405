"""The iterative solver: operator, preconditioner, iteration, choice of the solver, checkpoints and resuming."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from reference import kernel_matrix
from support.molecules import cyclic_group, random_molecules, symmetric_group_of_three

from fastgdml import _core, lapack
from fastgdml.cli import main
from fastgdml.dataset import create_dataset
from fastgdml.descriptor import from_R, jacobian_dot
from fastgdml.errors import InsufficientMemoryError, SolverError, UsageError
from fastgdml.model import load_model, save_model
from fastgdml.operator import KernelOperator
from fastgdml.predict import GDMLPredict
from fastgdml.solvers import choice, cost, low_rank, preconditioner
from fastgdml.solvers.conjugate_gradients import iterate
from fastgdml.solvers.cost import Cost
from fastgdml.solvers.equations import TrainingEquations
from fastgdml.solvers.iterative import choose_n_columns
from fastgdml.solvers.low_rank import Gram, LowRank, n_large
from fastgdml.solvers.processor import processor
from fastgdml.solvers.rigid import remove_rigid_motions
from fastgdml.train import GDMLTrain
from fastgdml.training_set import TrainingSet

GROUPS = {
    "none": lambda n: np.arange(n)[None],
    "some move": lambda n: symmetric_group_of_three(n),
    "all move": lambda n: cyclic_group(n, n),
}


@pytest.fixture(scope="module")
def task(ethanol):
    return GDMLTrain().create_task(ethanol, 60, ethanol, 40, sig=20, seed=3)


@pytest.fixture(scope="module")
def energy_task(ethanol):
    return GDMLTrain().create_task(ethanol, 40, ethanol, 40, sig=10, seed=3, use_E_cstr=True)


@pytest.fixture(scope="module")
def unconverged(task):
    """A model after 20 steps with a tolerance that they do not reach."""
    return GDMLTrain().train(task, solver="cg", tol=1e-10, max_iter=20)


def predicted(model, R):
    return GDMLPredict(model).predict(np.reshape(R, (len(R), -1)))


# ---- pieces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_operator_equals_the_matrix(group, energies, isa):
    n_atoms = 6
    R, perms = random_molecules(21, n_atoms), GROUPS[group](n_atoms)
    training = TrainingSet.from_R(R, perms, 4.0, energies)
    K = kernel_matrix(R, perms, 4.0, energies=energies)
    if energies:  # the oracle has all energies last
        q = 3 * n_atoms + 1
        order = np.arange(21 * q).reshape(21, q)
        point_order = np.empty(21 * q, dtype=int)
        point_order[np.concatenate([order[:, :-1].ravel(), order[:, -1]])] = np.arange(21 * q)
        K = K[np.ix_(point_order, point_order)]
    v = np.random.default_rng(0).normal(size=len(K))
    products = [KernelOperator(training, n_threads)(v) for n_threads in (1, 2, 3)]
    np.testing.assert_allclose(products[0], K @ v, rtol=0, atol=1e-12 * np.abs(K @ v).max())
    np.testing.assert_array_equal(products[0], products[1])
    np.testing.assert_array_equal(products[0], products[2])


@pytest.mark.parametrize("n", [1, 3, 4, 70, 333])
@pytest.mark.parametrize("k", [8, 16, 72])
def test_low_rank_products(n, k, isa):
    rng = np.random.default_rng(n)
    u, b, t = rng.normal(size=(n, k)).astype(np.float32), rng.normal(size=n), rng.normal(size=k)
    for n_threads in (1, 2):
        np.testing.assert_allclose(_core.low_rank_project(u, b, n_threads), u.astype(float).T @ b, rtol=0, atol=1e-12)
        left = b.copy()
        _core.low_rank_subtract(u, t, left, n_threads)
        np.testing.assert_allclose(left, b - u.astype(float) @ t, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(_core.low_rank_project(u, b, 1), _core.low_rank_project(u, b, 2))
    shorts, factor = rng.integers(-32767, 32768, (n, k)).astype(np.int16), 2.0 ** rng.integers(-15, 3, n)
    product = factor[:, None] * shorts
    bound = 1e-14 * np.abs(product).sum()
    for n_threads in (1, 2):
        found = _core.low_rank_project_shorts(shorts, factor, b, n_threads)
        np.testing.assert_allclose(found, product.T @ b, rtol=0, atol=bound)
        left = b.copy()
        _core.low_rank_subtract_shorts(shorts, factor, t, left, n_threads)
        np.testing.assert_allclose(left, b - product @ t, rtol=0, atol=bound)
    one = _core.low_rank_project_shorts(shorts, factor, b, 1)
    np.testing.assert_array_equal(one, found)


@pytest.mark.parametrize("k", [1, 5, 8, 67])
def test_low_rank_part_is_what_it_was_rounded_from(k, monkeypatch):
    monkeypatch.setattr(low_rank, "_LEAST_LARGE", 1)
    rng = np.random.default_rng(k)
    m, q = 6, 4
    L = np.asfortranarray(rng.normal(size=(m * q, k)) * 10.0 ** rng.uniform(-3, 3, k))
    roots = np.tril(rng.normal(size=(m, q, q)))
    scaled = np.matmul(roots, np.ascontiguousarray(L).reshape(m, q, k)).reshape(m * q, k)
    order = np.argsort(-np.linalg.norm(scaled, axis=0))
    grams, b, t = [], rng.normal(size=m * q), rng.normal(size=k)
    for n_threads in (1, 3):
        U = LowRank.zeros(m * q, order, n_threads)
        total = np.zeros((k, k), order="F")
        gram = Gram(total, n_threads)
        for rows in (slice(0, 2 * q), slice(2 * q, m * q)):
            gram.add(*U.set_rows(rows, np.asfortranarray(L[rows]), roots[rows.start // q : rows.stop // q]))
        gram.finish()
        grams.append(np.tril(total))
    first = n_large(k)
    rounded = np.hstack([U.large[:, :first], U.factor[:, None] * U.small[:, : k - first]])
    others = np.abs(scaled[:, order[first:]])
    row_bound = 2.0**-14 * others.max(axis=1, keepdims=True, initial=0.0)
    error = np.abs(rounded - scaled[:, order])
    assert (error[:, :first] <= 2.0**-23 * np.abs(scaled[:, order[:first]])).all()
    assert (error[:, first:] <= row_bound).all()
    np.testing.assert_array_equal(grams[0], grams[1])
    wanted = rounded.T @ rounded
    size = np.linalg.norm(rounded, axis=0)
    assert (np.abs(grams[0] - np.tril(wanted)) <= 1e-6 * np.outer(size, size)).all()
    assert (np.abs(grams[0] - np.tril(wanted))[:, :first] <= 1e-14 * np.outer(size, size[:first])).all()
    np.testing.assert_allclose(U.project(b), rounded.T @ b, rtol=1e-10, atol=1e-12 * size.max())
    left = b.copy()
    U.subtract(t, left)
    np.testing.assert_allclose(left, b - rounded @ t, rtol=1e-10, atol=1e-12 * size.max())


@pytest.mark.parametrize("tile", [1, 7, 256])
def test_dense_linear_algebra(tile):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(40, 25))
    C = np.asfortranarray(np.diag(np.arange(1.0, 26.0)))
    wanted = C + A.T @ A
    small = np.zeros((15, 15), np.float32, order="F")
    lapack.add_split_gram(np.ascontiguousarray(A[:, :10]), A[:, 10:].astype(np.float32), C, small, 2)
    C[10:, 10:] += np.tril(small)
    np.testing.assert_allclose(np.tril(C), np.tril(wanted), rtol=1e-5, atol=1e-5)
    wanted = np.tril(C) + np.tril(C, -1).T
    assert lapack.cholesky_dense(C, 2, tile) == 0
    L = np.tril(C)
    np.testing.assert_allclose(L @ L.T, wanted, rtol=0, atol=1e-12)
    b = rng.normal(size=25)
    np.testing.assert_allclose(lapack.solve_cholesky(C, b, 2), np.linalg.solve(wanted, b), rtol=0, atol=1e-13)
    B = np.asfortranarray(rng.normal(size=(6, 25)))
    wanted = np.linalg.solve(L, B.T).T
    lapack.solve_triangular_right(C, B, 2, tile)
    np.testing.assert_allclose(B, wanted, rtol=0, atol=1e-13)
    assert lapack.cholesky_dense(np.asfortranarray(-np.eye(3)), 2, tile) > 0


@pytest.mark.parametrize("n", [0, 1, 256, 257, 700])
def test_solving_with_a_factor_of_several_strips(n):
    rng = np.random.default_rng(n)
    L = np.tril(rng.normal(size=(n, n)) / max(n, 1)) + np.eye(n)
    b = rng.normal(size=n)
    one, other = (lapack.solve_cholesky(np.asfortranarray(L + np.triu(b[:, None], 1)), b, t) for t in (1, 3))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(L @ (L.T @ one), b, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("m", "n_large", "n_small"), [(600, 400, 500), (530, 128, 0), (3, 5, 390), (520, 0, 20)])
def test_sums_of_several_tiles_and_strips(m, n_large, n_small):
    rng = np.random.default_rng(0)
    k = n_large + n_small
    U = rng.normal(size=(m, k))
    U[:, n_large:] = U[:, n_large:].astype(np.float32)
    F = np.tril(0.01 * rng.normal(size=(k, k))) + np.eye(k)
    found = []
    for n_threads in (1, 3):
        C, small = np.zeros((k, k), order="F"), np.zeros((n_small, n_small), np.float32, order="F")
        parts = np.ascontiguousarray(U[:, :n_large]), U[:, n_large:].astype(np.float32, order="C")
        lapack.add_split_gram(*parts, C, small, n_threads)
        B = U.copy(order="F")
        lapack.solve_triangular_right(np.asfortranarray(F), B, n_threads)
        found.append((C, small, B))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    C, small, B = found[0]
    assert not np.triu(C, 1).any()
    assert not np.triu(small, 1).any()
    assert not C[n_large:, n_large:].any()
    wanted = np.tril(U.T @ U)
    np.testing.assert_allclose(C[:, :n_large], wanted[:, :n_large], rtol=0, atol=1e-12 * m)
    np.testing.assert_allclose(small, wanted[n_large:, n_large:], rtol=0, atol=1e-5 * m)
    np.testing.assert_allclose(B @ F.T, U, rtol=0, atol=1e-11)


@pytest.mark.parametrize("energies", [False, True])
def test_preconditioner_is_the_inverse_of_its_definition(energies):
    n_train, n_atoms, sig, lam = 12, 5, 3.0, 1e-8
    R, perms = random_molecules(n_train, n_atoms), cyclic_group(n_atoms, 3)
    training = TrainingSet.from_R(R, perms, sig, energies)
    points, columns = np.array([2, 9]), [[0, 4, 7], [1, 2]]
    P = preconditioner.build(training, lam, points, columns)
    q = 3 * n_atoms + energies
    A = -np.column_stack([KernelOperator(training)(e) for e in np.eye(n_train * q)])
    chosen = np.concatenate([p * q + np.array(c) for p, c in zip(points, columns, strict=True)])
    C = A[:, chosen]
    L = np.linalg.solve(np.linalg.cholesky(C[chosen]), C.T).T
    whole = L @ L.T
    for i in range(n_train):
        own = slice(i * q, (i + 1) * q)
        missed = (A - L @ L.T)[own, own]
        shift = lam + preconditioner.BLOCK_SHIFT * np.linalg.norm(missed)
        whole[own, own] += missed + shift * np.eye(q)
    applied = np.column_stack([P(column) for column in whole])
    np.testing.assert_allclose(applied, np.eye(len(A)), rtol=0, atol=2e-3)


def test_preconditioner_that_cannot_be_built(monkeypatch):
    training = TrainingSet.from_R(random_molecules(3, 4), np.arange(4)[None], 3.0)
    monkeypatch.setattr(lapack, "cholesky_dense", lambda _matrix, _n_threads: 1)
    with pytest.raises(SolverError, match="duplicates"):
        preconditioner.build(training, 0.0, np.array([0]), [range(12)])


def test_duplicate_geometries(task, ethanol):
    """Columns that depend on each other are regularised."""
    twice = {key: np.concatenate([task[key]] * 2) for key in ("R_train", "F_train", "E_train", "idxs_train")}
    model, once = (GDMLTrain().train(t, solver="cg") for t in ({**task, **twice}, task))
    F, F_once = (predicted(m, ethanol["R"][:50])[1] for m in (model, once))
    np.testing.assert_allclose(F, F_once, rtol=0, atol=1e-2 * np.abs(F_once).max())


def test_iteration_solves():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(60, 60))
    A = A @ A.T + np.eye(60)
    b = rng.normal(size=60)
    for start in (None, rng.normal(size=60)):
        for state in iterate(lambda v: A @ v, lambda r: r / A.diagonal(), b, start):
            assert state.residual == pytest.approx(np.linalg.norm(b - A @ state.x), rel=1e-6, abs=1e-12)
            if state.residual < 1e-10:
                break
            assert state.step < 200
        np.testing.assert_allclose(state.x, np.linalg.solve(A, b), rtol=0, atol=1e-10)


def test_a_breakdown_shows_in_the_residual():
    states = iterate(lambda v: 0.0 * v, lambda r: r, np.ones(5))
    assert next(states).residual == pytest.approx(5**0.5)
    assert not np.isfinite(next(states).residual)
    assert not np.isfinite(next(states).residual)


@pytest.mark.parametrize("periodic", [False, True])
def test_rigid_motions_are_removed(periodic):
    R = random_molecules(5, 6)
    R[0] = np.outer(np.arange(6.0), [1, 2, 3])  # linear
    y = np.random.default_rng(0).normal(size=5 * 18)
    left = remove_rigid_motions(R, y, periodic).reshape(5, 6, 3)
    np.testing.assert_allclose(left.sum(axis=1), 0, atol=1e-12)
    torque = np.cross(R - R.mean(axis=1, keepdims=True), left).sum(axis=1)
    assert (np.abs(torque).max() < 1e-10) == (not periodic)
    # what is removed predicts nothing
    _, g = from_R(R)
    if not periodic:
        np.testing.assert_allclose(jacobian_dot(g, (y - left.ravel()).reshape(5, -1)), 0, atol=1e-12)


# ---- training ----------------------------------------------------------------------------------------------------


def test_equals_the_closed_form(task, ethanol):
    closed = GDMLTrain().train(task, solver="closed")
    model = GDMLTrain().train(task, solver="cg", tol=1e-9)
    E, F = predicted(model, ethanol["R"][:200])
    E_closed, F_closed = predicted(closed, ethanol["R"][:200])
    np.testing.assert_allclose(F, F_closed, rtol=0, atol=1e-4 * np.abs(F_closed).max())
    np.testing.assert_allclose(E, E_closed, rtol=0, atol=1e-4 * np.abs(F_closed).max())
    assert (closed["solver_name"], model["solver_name"]) == ("analytic", "cg")
    assert model["solver_tol"] == 1e-9
    assert model["solver_resid"] <= 1e-9 * model["norm_y_train"]
    assert 0 < model["solver_iters"] < 1000
    assert model["solver_reason"] == closed["solver_reason"] == "asked for"
    F_label = ethanol["F"][:200].reshape(200, -1)
    maes = [
        np.abs(predicted(m, ethanol["R"][:200])[1] - F_label).mean()
        for m in (closed, GDMLTrain().train(task, solver="cg"))
    ]
    assert maes[1] == pytest.approx(maes[0], rel=2e-3)


def test_equals_the_closed_form_with_energy_constraints(energy_task, ethanol):
    closed = GDMLTrain().train(energy_task, solver="closed")
    model = GDMLTrain().train(energy_task, solver="cg", tol=1e-8)
    E, F = predicted(model, ethanol["R"][:100])
    E_closed, F_closed = predicted(closed, ethanol["R"][:100])
    np.testing.assert_allclose(F, F_closed, rtol=0, atol=1e-3 * np.abs(F_closed).max())
    np.testing.assert_allclose(E, E_closed, rtol=0, atol=1e-3 * np.abs(F_closed).max())
    assert model["alphas_E"].shape == (40,)
    columns = model["inducing_pts_idxs"]
    assert len(np.unique(columns)) == len(columns)
    assert columns.max() < 40 * 28


def test_what_cannot_be_reached_does_not_lead_away(energy_task, ethanol):
    # with the few columns that a tolerance of 1e-8 gets, to one that rounding errors forbid
    model = GDMLTrain().train(energy_task, solver="cg", tol=1e-8, max_iter=1)
    task = GDMLTrain().create_task_from_model(model, ethanol)
    model = GDMLTrain().train(task, solver="cg", tol=1e-15, max_iter=2000)
    assert model["solver_resid"] < 1e-5 * model["norm_y_train"]


def test_periodic_systems(reference):
    if reference["case"] != "cu111_periodic":
        pytest.skip("one periodic case is enough")
    dataset = create_dataset(
        "cu",
        "emt",
        reference["z"],
        reference["R_train"],
        reference["F_train"],
        reference["E_train"],
        reference["lattice"],
    )
    task = GDMLTrain().create_task(dataset, 8, dataset, 2, sig=20, perms=reference["perms"], seed=0)
    closed = GDMLTrain().train(task, solver="closed")
    model = GDMLTrain().train(task, solver="cg", tol=1e-9)
    F, F_closed = (predicted(m, reference["R_test"])[1] for m in (model, closed))
    np.testing.assert_allclose(F, F_closed, rtol=0, atol=1e-3 * np.abs(F_closed).max())


def test_results_do_not_depend_on_the_threads_of_the_kernels(task):
    alphas = [GDMLTrain(max_processes=n).train(task, solver="cg", max_iter=5)["alphas_F"] for n in (1, 2)]
    # BLAS, which factors the preconditioner, sums in another order
    np.testing.assert_allclose(alphas[0], alphas[1], rtol=0, atol=1e-4 * np.abs(alphas[0]).max())


def test_smallest_systems():
    R = np.array([[[0.0, 0, 0], [0, 0, 1.0]], [[0, 0, 0], [0, 0.1, 1.2]]])
    F = np.array([[[0.0, 0, 1.0], [0, 0, -1.0]], [[0, 0.0, 0.5], [0, 0, -0.5]]])
    dataset = create_dataset("h2", "x", np.array([1, 1]), R, F, np.array([0.0, 0.1]))
    task = GDMLTrain().create_task(dataset, 1, dataset, 1, sig=2, seed=0, use_sym=False)
    models = [GDMLTrain().train(task, solver=solver) for solver in ("closed", "cg")]
    np.testing.assert_allclose(predicted(models[0], R)[1], predicted(models[1], R)[1], rtol=0, atol=1e-3)


# ---- choice ------------------------------------------------------------------------------------------------------


def test_plans_say_what_and_why(task, monkeypatch):
    R, y = task["R_train"], task["F_train"].ravel() / task["F_train"].std()
    equations = TrainingEquations(R, TrainingSet.from_R(R, task["perms"], task["sig"]), 1e-10, y)

    def plan(**options):
        return choice.choose(equations, choice.SolverOptions(**options), processor())

    assert str(plan()) == "Closed form: the matrix is small, of order 1260."
    assert str(plan(solver="closed")) == "Closed form: asked for."
    assert re.fullmatch(
        r"Iterative solver \(conjugate gradients\), \d+ of 1620 columns: asked for.", str(plan(solver="cg"))
    )
    assert plan(solver="cg").course.closed_form == np.inf
    monkeypatch.setattr(choice, "_SMALL_ORDER", 10)
    monkeypatch.setattr(choice, "closed_form_seconds", lambda _n, _rates: 1e9)
    assert "columns: on two cores the closed form takes about 1e+09 s" in str(plan())
    assert plan().course.closed_form == 1e9


def test_auto_takes_the_faster(task, monkeypatch):
    assert GDMLTrain().train(task)["solver_name"] == "analytic"  # small
    monkeypatch.setattr(choice, "_SMALL_ORDER", 10)
    for seconds, wanted in ((1e9, "cg"), (1e-9, "analytic")):
        monkeypatch.setattr(choice, "closed_form_seconds", lambda _n, _rates, seconds=seconds: seconds)
        model = GDMLTrain().train(task)
        assert model["solver_name"] == wanted
        assert "the closed form takes about" in str(model["solver_reason"])


def test_auto_leaves_an_iteration_that_is_slower(task, monkeypatch, caplog):
    """It begins where it may win; what it reads off the first steps says that it does not."""
    caplog.set_level("INFO", "fastgdml")
    monkeypatch.setattr(choice, "_SMALL_ORDER", 10)
    monkeypatch.setattr(choice, "_SHARE_OF_START", 1e9)
    monkeypatch.setattr(Cost, "total", lambda _self, k, _tol: -float(k))
    monkeypatch.setattr(choice, "closed_form_seconds", lambda _n, _rates: 1e-3)
    model, closed = GDMLTrain().train(task, tol=1e-10), GDMLTrain().train(task, solver="closed")
    assert model["solver_name"] == "analytic"
    assert re.search(
        r"after [89] steps with \d+ columns the iteration had about .* s left$", str(model["solver_reason"])
    )
    np.testing.assert_array_equal(model["R_d_desc_alpha"], closed["R_d_desc_alpha"])


def test_an_iteration_that_is_slow_gets_columns(task, monkeypatch):
    """With the closed form at hand and without; what is found is what the closed form finds."""
    monkeypatch.setattr(choice, "_SMALL_ORDER", 10)
    monkeypatch.setattr(choice, "closed_form_seconds", lambda _n, _rates: 1e9)
    monkeypatch.setattr(cost, "_STEPS", 1e-9)  # it begins with as few as there are
    closed = GDMLTrain().train(task, solver="closed")
    for solver in ("auto", "cg"):
        models = [GDMLTrain().train(task, solver=solver, tol=1e-9, max_iter=most) for most in (6, 1000)]
        few, many = (set(model["inducing_pts_idxs"]) for model in models)
        assert few < many  # nested
        assert models[1]["solver_resid"] <= 1e-9 * models[1]["norm_y_train"]
        alphas, exact = models[1]["R_d_desc_alpha"], closed["R_d_desc_alpha"]
        np.testing.assert_allclose(alphas, exact, rtol=0, atol=1e-3 * np.abs(exact).max())
        assert ("more were added" in str(models[1]["solver_reason"])) == (solver == "auto")


def test_auto_iterates_when_the_closed_form_does_not_fit(ethanol):
    task = GDMLTrain().create_task(ethanol, 300, ethanol, 10, 20, use_sym=False, seed=0)
    model = GDMLTrain(max_memory=0.12).train(task)
    assert model["solver_name"] == "cg"
    assert "the limit is 0.12 GB" in str(model["solver_reason"])


def test_auto_takes_the_closed_form_when_only_that_fits(task, monkeypatch):
    monkeypatch.setattr(choice, "_SMALL_ORDER", 10)
    monkeypatch.setattr(low_rank, "memory", lambda n, n_columns: 10**13)
    assert GDMLTrain().train(task)["solver_name"] == "analytic"
    with pytest.raises(InsufficientMemoryError, match="iterative solver needs a memory limit of at least"):
        GDMLTrain().train(task, solver="cg")


@pytest.mark.parametrize(("n_train", "use_E_cstr"), [(40, False), (300, False), (80, True)])
def test_the_limit_that_would_do_is_said_and_does(ethanol, n_train, use_E_cstr):
    task = GDMLTrain().create_task(ethanol, n_train, ethanol, 10, 20, use_sym=False, use_E_cstr=use_E_cstr, seed=0)
    with pytest.raises(InsufficientMemoryError, match="-m ") as failure:
        GDMLTrain(max_memory=1e-4).train(task, solver="cg")
    enough = float(re.search(r"max_memory=([\d.e-]+)", str(failure.value))[1])
    assert GDMLTrain(max_memory=enough).train(task, solver="cg", max_iter=2)["solver_name"] == "cg"
    with pytest.raises(InsufficientMemoryError, match=f"at least {enough:g} GB"):
        GDMLTrain(max_memory=0.98 * enough).train(task, solver="cg")


def test_number_of_columns_follows_from_memory():
    cost = Cost(500, 27, 6, 2.5e8, processor().rates)
    free = choose_n_columns(cost, 1e12, processor())
    assert 300 < free < 4500
    bound = choose_n_columns(cost, 8e7, processor())
    assert bound < free
    assert preconditioner.memory(500, 27, bound) <= 8e7
    with pytest.raises(InsufficientMemoryError, match="needs at least"):
        choose_n_columns(cost, 1e7, processor())


MEMORY = """
import sys
from pathlib import Path
from fastgdml.dataset import load_dataset
from fastgdml.train import GDMLTrain

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024

ethanol = load_dataset("ethanol")
small = GDMLTrain().create_task(ethanol, 20, ethanol, 10, 20, seed=0)
GDMLTrain().train(small, solver="cg")  # loads what a training loads
task = GDMLTrain().create_task(ethanol, 400, ethanol, 10, 20, seed=0)
before = status("VmRSS")
model = GDMLTrain(max_memory=float(sys.argv[1])).train(task, solver="cg", max_iter=3)
print(status("VmHWM") - before, len(model["inducing_pts_idxs"]))
"""


@pytest.mark.parametrize("limit", [0.12, 0.4])
def test_the_memory_limit_holds(limit, tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak memory of a process is read from /proc")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(limit)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    peak, n_columns = map(int, done.stdout.split())
    assert peak < limit * 2**30
    assert n_columns > 50


@pytest.mark.parametrize("wrong", [{"solver": "lu"}, {"tol": 0.0}, {"tol": 2.0}, {"max_iter": 0}])
def test_wrong_options(task, wrong):
    with pytest.raises(UsageError, match="must be"):
        GDMLTrain().train(task, **wrong)


# ---- progress, early stop, checkpoints, resuming -----------------------------------------------------------------


def test_progress_tells_residual_and_time_left(task):
    seen = []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        seen.append((disp_str, current / total, sec_disp_str, done_with_warning))

    GDMLTrain().train(task, solver="cg", callback=callback)
    steps = [entry for entry in seen if "conjugate" in entry[0]]
    assert "residual" in steps[2][2]
    assert any("s left" in (entry[2] or "") for entry in steps)
    assert steps[-1][1] == 1
    assert not steps[-1][3]


def test_early_stop(task, ethanol, caplog):
    caplog.set_level("INFO", "fastgdml")
    idxs = task["idxs_valid"]
    model = GDMLTrain().train(task, solver="cg", tol=1e-14, held_out=(ethanol["R"][idxs], ethanol["F"][idxs]))
    assert "no longer falls" in caplog.text
    assert model["solver_resid"] > 1e-14 * model["norm_y_train"]
    full = GDMLTrain().train(task, solver="closed")
    errors = [
        np.abs(predicted(m, ethanol["R"][idxs])[1] - ethanol["F"][idxs].reshape(len(idxs), -1)).mean()
        for m in (model, full)
    ]
    assert errors[0] < 1.01 * errors[1]
    with pytest.raises(UsageError, match="held_out"):
        GDMLTrain().train(task, solver="cg", held_out=(ethanol["R"][:3], ethanol["F"][:2]))


def test_resuming_goes_on_where_it_stopped(task, unconverged, ethanol, caplog):
    assert "stopped after 20 steps" not in caplog.text  # that was when the fixture was made
    assert unconverged["solver_resid"] > 1e-10 * unconverged["norm_y_train"]
    resumed_task = GDMLTrain().create_task_from_model(unconverged, ethanol)
    for key in ("R_train", "F_train", "E_train", "perms", "sig", "lam", "idxs_valid"):
        np.testing.assert_array_equal(resumed_task[key], task[key])
    residuals = []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        if sec_disp_str and "step 0," in sec_disp_str:
            residuals.append(float(sec_disp_str.split("residual ")[1].split(",")[0]))

    model = GDMLTrain().train(resumed_task, solver="cg", tol=1e-9, callback=callback)
    assert residuals[0] == pytest.approx(unconverged["solver_resid"] / unconverged["norm_y_train"], rel=0.1)
    assert model["solver_iters"] > 20
    np.testing.assert_array_equal(np.sort(model["inducing_pts_idxs"]), np.sort(unconverged["inducing_pts_idxs"]))
    F, F_closed = (predicted(m, ethanol["R"][:100])[1] for m in (model, GDMLTrain().train(task, solver="closed")))
    np.testing.assert_allclose(F, F_closed, rtol=0, atol=1e-4 * np.abs(F_closed).max())


def test_resuming_with_less_memory_takes_fewer_columns(ethanol):
    task = GDMLTrain().create_task(ethanol, 200, ethanol, 10, 20, seed=0)
    model = GDMLTrain().train(task, solver="cg", max_iter=2)
    many = np.arange(0, 27 * 200, 3)
    task = GDMLTrain().create_task_from_model({**model, "inducing_pts_idxs": many}, ethanol)
    for limit, wanted in ((1.0, many), (0.12, None)):
        columns = GDMLTrain(max_memory=limit).train(task, solver="cg", max_iter=2)["inducing_pts_idxs"]
        if wanted is None:
            assert len(columns) < len(many)
        else:
            np.testing.assert_array_equal(np.sort(columns), wanted)


def test_resuming_with_energy_constraints(energy_task, ethanol, tmp_path):
    save_model(tmp_path / "m.npz", GDMLTrain().train(energy_task, solver="cg", tol=1e-9, max_iter=30))
    model = load_model(tmp_path / "m.npz")
    task = GDMLTrain().create_task_from_model(model, ethanol)
    assert task["use_E_cstr"]
    np.testing.assert_array_equal(task["alphas0_E"], model["alphas_E"])
    resumed = GDMLTrain().train(task, solver="cg", tol=1e-7)
    assert resumed["solver_resid"] <= 1e-7 * resumed["norm_y_train"]
    np.testing.assert_array_equal(np.sort(resumed["inducing_pts_idxs"]), np.sort(model["inducing_pts_idxs"]))


def test_what_cannot_be_resumed(ethanol, ethanol_model, unconverged):
    with pytest.raises(UsageError, match="'analytic'"):
        GDMLTrain().create_task_from_model(ethanol_model, ethanol)
    other = create_dataset("o", "x", ethanol["z"], ethanol["R"][:100], ethanol["F"][:100], ethanol["E"][:100])
    with pytest.raises(UsageError, match="another dataset"):
        GDMLTrain().create_task_from_model(unconverged, other)


def test_a_run_cut_short_returns_its_best_iterate(task):
    relative = []
    for max_iter in (1, 3, 10, 40):
        model = GDMLTrain().train(task, solver="cg", tol=1e-12, max_iter=max_iter)
        relative.append(model["solver_resid"] / model["norm_y_train"])
    assert relative[0] <= 1
    assert relative == sorted(relative, reverse=True)


def test_ctrl_c_leaves_a_checkpoint(task, ethanol):
    saved = []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        if sec_disp_str and "step 30," in sec_disp_str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GDMLTrain().train(task, saved.append, callback, solver="cg", tol=1e-12)
    (steps,) = [int(model["solver_iters"]) for model in saved]
    assert steps >= 30  # those before columns were added count
    assert GDMLTrain().create_task_from_model(saved[0], ethanol)["solver_iters"] == steps


INTERRUPTED = """
import sys
import fastgdml.solvers.iterative
fastgdml.solvers.iterative.CHECKPOINT_INTERVAL = 0.1
from fastgdml.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_goes_on_from_its_checkpoint(how, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["create", "ethanol", "150", "50", "--seed", "1", "-s", "20"]) == 0
    (folder,) = tmp_path.glob("sgdml_cv_*")
    # a tolerance that rounding errors do not let it reach: it is killed before it ends
    command = ["train", str(folder), "ethanol", "--solver", "cg", "--tol", "1e-15"]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    checkpoint = folder / "_unconv_model-train150-sym6-sig0020.npz"
    until = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)  # it is in the middle of the iteration, or of writing the next checkpoint
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGTERM else -signal.SIGKILL), err
    steps = int(load_model(checkpoint)["solver_iters"])
    assert steps > 0
    capsys.readouterr()
    assert main(["resume", str(checkpoint), "ethanol", "ethanol", "--solver", "cg", "--tol", "1e-5"]) == 0
    assert f"Going on after {steps:,} steps" in capsys.readouterr().out
    model = load_model(folder / "model-train150-sym6-sig0020.npz")
    assert int(model["solver_iters"]) >= steps
    assert model["solver_resid"] <= 1e-5 * model["norm_y_train"]
    assert np.isfinite(model["f_err_rmse"])
    assert not checkpoint.exists()
    if how == signal.SIGTERM:  # a kill in the middle of writing leaves a temporary file beside the whole one
        assert not [name for name in os.listdir(folder) if name.endswith(".tmp")]


def test_resume_refuses_what_is_finished_or_elsewhere(tmp_path, monkeypatch, unconverged, ethanol_model, capsys):
    monkeypatch.chdir(tmp_path)
    save_model("_unconv_model.npz", unconverged)
    save_model("closed.npz", ethanol_model)
    assert main(["resume", "closed.npz", "ethanol", "ethanol"]) == 1
    assert "analytic" in capsys.readouterr().err
    Path("model-train60-sym6-sig0020.npz").touch()
    assert main(["resume", "_unconv_model.npz", "ethanol", "ethanol"]) == 1
    assert "already" in capsys.readouterr().err


PEER = """
import sys, numpy as np
from sgdml.train import GDMLTrain
task = dict(np.load(sys.argv[1], allow_pickle=True))
for key in ("use_E", "use_E_cstr", "use_sym"):
    task[key] = bool(task[key])
saved = []
trainer = GDMLTrain(max_memory=1, use_torch=False)
import sgdml.train
from sgdml.solvers.iterative import Iterative
from functools import partial
from sgdml.utils import ui
from sgdml.utils.desc import Desc
task["solver_tol"] = 1e-4
n_train, n_atoms = task["R_train"].shape[:2]
desc = Desc(n_atoms)
R_desc, R_d_desc = desc.from_R(task["R_train"])
tril = np.array([Desc.perm(p) for p in task["perms"]])
tril_perms_lin = (tril + np.arange(len(tril))[:, None] * tril.shape[1]).flatten("F")
y = task["F_train"].ravel()
std = y.std()
solver = Iterative(trainer, desc, max_memory=1, max_processes=1, use_torch=False, callback=partial(ui.callback))
alphas, tol, iters, resid, train_rmse, idxs, is_conv = solver.solve(
    task, R_desc, R_d_desc, tril_perms_lin, y / std, std, save_progr_callback=None
)
model = trainer.create_model(task, "cg", R_desc, R_d_desc, tril_perms_lin, std, alphas)
model["solver_tol"], model["solver_iters"], model["solver_resid"] = tol, iters, resid
model["norm_y_train"], model["inducing_pts_idxs"] = np.linalg.norm(y / std), idxs
np.savez_compressed(sys.argv[2], **model)
"""


def test_resuming_a_model_of_sgdml(tmp_path, peer, task, ethanol):
    from fastgdml.task import save_task

    save_task(tmp_path / "task.npz", task)
    peer(PEER, tmp_path / "task.npz", tmp_path / "model.npz", cwd=tmp_path)
    model = load_model(tmp_path / "model.npz")
    resumed = GDMLTrain().train(GDMLTrain().create_task_from_model(model, ethanol), solver="cg", tol=1e-9)
    assert resumed["solver_iters"] > model["solver_iters"]
    F, F_closed = (predicted(m, ethanol["R"][:100])[1] for m in (resumed, GDMLTrain().train(task, solver="closed")))
    np.testing.assert_allclose(F, F_closed, rtol=0, atol=1e-4 * np.abs(F_closed).max())


def test_straight_molecules():
    """Across them no distance changes: the columns of these coordinates are zero."""
    R = np.zeros((60, 4, 3))
    R[:, :, 2] = np.arange(4) * 1.2 + np.random.default_rng(0).uniform(0, 0.2, (60, 4))
    stretch = np.diff(R[:, :, 2]) - 1.25
    F = np.zeros_like(R)
    F[:, :-1, 2] += 5 * stretch
    F[:, 1:, 2] -= 5 * stretch
    dataset = create_dataset("straight", "springs", [6, 7, 6, 8], R, F, 2.5 * (stretch**2).sum(axis=1))
    train = GDMLTrain(max_processes=1)
    task = train.create_task(dataset, 40, dataset, 20, 5, seed=0, use_sym=False)
    exact, iterated = train.train(task, solver="closed"), train.train(task, solver="cg", tol=1e-6)
    assert iterated["solver_resid"] <= 1e-6 * iterated["norm_y_train"]
    rest = task["idxs_valid"]
    predicted, other = (GDMLPredict(model).predict(R[rest])[1] for model in (exact, iterated))
    assert np.abs(predicted - F[rest].reshape(len(rest), -1)).max() < 3e-2 * np.abs(F).max()
    assert np.abs(predicted - other).max() < 1e-3 * np.abs(F).max()
