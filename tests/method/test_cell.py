"""Periodic cells: both image rules against brute force and ASE, cells that vary, and training in them."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import descriptor, nearest, rounded
from support.crystals import (
    FCC,
    HEXAGONAL,
    LATTICES,
    SHEARED,
    TRICLINIC,
    crystal,
    periodic_dataset,
    springs,
    varying_lattices,
)
from support.molecules import cyclic_group, random_molecules

from fastgdml import _core
from fastgdml.cell import Cell, image_rule_of
from fastgdml.dataset import dataset_md5
from fastgdml.descriptor import from_R
from fastgdml.errors import DataError, UsageError
from fastgdml.evaluate import prediction_errors
from fastgdml.kernel import assemble_full
from fastgdml.model import load_model, normalize_model, save_model
from fastgdml.permutations import find_perms
from fastgdml.predict import GDMLPredict
from fastgdml.solvers import iterative
from fastgdml.solvers.cholesky import solve_closed_form
from fastgdml.solvers.equations import TrainingEquations
from fastgdml.solvers.processor import processor
from fastgdml.task import check_task
from fastgdml.train import GDMLTrain
from fastgdml.training_set import TrainingSet


def folded(d, cell):
    """Differences d (n, 3) as the native descriptor folds them."""
    pairs = np.zeros((len(d), 2, 3))
    pairs[:, 1] = d  # pair (1, 0): r_1 - r_0
    x, g = from_R(pairs, cell)
    return g[:, 0] / x[:, 0, None] ** 3


@pytest.mark.parametrize("name", LATTICES)
def test_minimum_image_equals_brute_force(name, isa):
    d = np.random.default_rng(0).uniform(-30, 30, (60, 3))
    ours = folded(d, Cell(LATTICES[name]))
    brute = np.array([nearest(di, LATTICES[name]) for di in d])
    np.testing.assert_allclose(ours, brute, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LATTICES)
def test_minimum_image_equals_ase(name):
    geometry = pytest.importorskip("ase.geometry", reason="ASE is not installed")
    d = np.random.default_rng(1).uniform(-30, 30, (2000, 3))
    vectors, lengths = geometry.find_mic(d, LATTICES[name].T)
    ours = folded(d, Cell(LATTICES[name]))
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), lengths, rtol=1e-12)
    np.testing.assert_allclose(ours, vectors, rtol=0, atol=1e-11)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 3.0), st.integers(0, 20))
def test_minimum_image_in_random_cells(seed, spread, shear):
    """Cells of any shape: elongated by e^spread, then sheared by up to `shear` lattice vectors."""
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(3, 3)) * np.exp(rng.uniform(-spread, spread, 3) / 2)
    assume(abs(np.linalg.det(L)) > 1e-2 * np.prod(np.linalg.norm(L, axis=0)))
    d = L @ rng.uniform(-3, 3, 3)
    sheared = L.copy()
    for i, j in rng.permutation([(0, 1), (1, 2), (2, 0)]):
        sheared[:, i] += rng.integers(-shear, shear + 1) * sheared[:, j]
    assume(abs(np.linalg.det(sheared)) > 1e-9 * np.prod(np.linalg.norm(sheared, axis=0)))
    ours = folded(d[None], Cell(sheared))[0]
    brute = nearest(d, L)  # of the same lattice
    scale = np.abs(sheared).max()
    assert abs(np.linalg.norm(ours) - np.linalg.norm(brute)) < 1e-12 * scale
    n = np.linalg.solve(L, d - ours)
    np.testing.assert_allclose(n, np.round(n), rtol=0, atol=1e-9 * scale / np.abs(L).min())


@pytest.mark.parametrize("name", LATTICES)
def test_descriptors_equal_the_oracle(name, isa):
    R = random_molecules(3, 6)
    for rule, image in (("minimum", nearest), ("rounding", rounded)):
        x, g = from_R(R, Cell(LATTICES[name], rule))
        for i, r in enumerate(R):
            x_ref, J_ref = descriptor(r, LATTICES[name], image)
            np.testing.assert_allclose(x[i], x_ref, rtol=1e-12)
            for k, (a, b) in enumerate(zip(*np.tril_indices(6, -1), strict=True)):
                np.testing.assert_allclose(g[i, k], J_ref[k, 3 * b : 3 * b + 3], rtol=1e-11, atol=1e-12)
                np.testing.assert_allclose(-g[i, k], J_ref[k, 3 * a : 3 * a + 3], rtol=1e-11, atol=1e-12)


def test_a_60_degree_cell_shows_the_difference():
    d = HEXAGONAL @ [[0.49], [0.49], [0.0]]
    near, far = (np.linalg.norm(folded(d.T, Cell(HEXAGONAL, rule))) for rule in ("minimum", "rounding"))
    assert far == pytest.approx(0.98 * 4 * np.sqrt(0.75))
    assert near == pytest.approx(4 * np.sqrt(0.49**2 + 0.51**2 - 0.49 * 0.51))


@pytest.mark.parametrize(
    ("lattice", "agree"),
    [
        (np.diag([3.0, 4.0, 50.0]), True),
        (np.eye(3)[[2, 0, 1]] * 4.0, True),
        (HEXAGONAL, False),
        (FCC, False),
        (TRICLINIC, False),
        (SHEARED, False),
        # Nearly orthogonal is not orthogonal: a corner of the cell is nearer to another image.
        (np.array([[4.0, 0.1, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]]), False),
    ],
)
def test_rules_agree_where_they_say_so(lattice, agree):
    cell = Cell(lattice)
    assert cell.rounding_is_minimal is agree
    assert Cell([np.eye(3), lattice]).rounding_is_minimal is agree
    # Corners, where the rules differ if they differ anywhere, and random places.
    f = np.array([[i, j, k] for i in (-0.499, 0.499) for j in (-0.499, 0.499) for k in (-0.499, 0.499)])
    f = np.vstack([f, np.random.default_rng(0).uniform(-2, 2, (2000, 3))])
    d = f @ lattice.T
    same = np.allclose(folded(d, cell), folded(d, Cell(lattice, "rounding")), rtol=0, atol=1e-12)
    assert same is agree


def test_orthogonal_cells_try_no_further_images():
    for lattice, n_shifts in ((np.diag([3.0, 4.0, 50.0]), 0), (HEXAGONAL, 4), (FCC, 14)):
        assert Cell(lattice).native.tables()[2].shape[1] <= n_shifts
    assert Cell(HEXAGONAL, "rounding").native.tables()[2].shape[1] == 0


def test_the_kink_half_a_cell_away():
    """docs/howto/periodic.md: the distance is continuous at half the cell, its derivative is not."""
    cell = Cell(np.diag([4.0, 20.0, 20.0]))
    (x0, x1), (g0, g1) = (a[:, 0] for a in from_R([[[0, 0, 0], [1.999999, 1, 0]], [[0, 0, 0], [2.000001, 1, 0]]], cell))
    assert x0 == pytest.approx(x1, rel=1e-5)
    np.testing.assert_allclose(g0 * [-1, 1, 1], g1, rtol=1e-5)
    assert abs(g0[0]) > 0.1


# ---- cells that vary


@pytest.mark.parametrize("rule", ["minimum", "rounding"])
def test_one_cell_for_each_geometry(rule, isa):
    R = random_molecules(4, 5)
    lattices = np.array([HEXAGONAL, FCC, TRICLINIC, np.diag([3.0, 4.0, 5.0])])
    x, g = from_R(R, Cell(lattices, rule))
    for i in range(4):
        xi, gi = from_R(R[i : i + 1], Cell(lattices[i], rule))
        np.testing.assert_array_equal(x[i], xi[0])
        np.testing.assert_array_equal(g[i], gi[0])
    with pytest.raises(DataError, match="4 lattices for 3 geometries"):
        from_R(R[:3], Cell(lattices, rule))


def test_part_of_the_cells():
    cell = Cell([HEXAGONAL, FCC, TRICLINIC])
    np.testing.assert_array_equal(cell.part(slice(1, 3)).lattice, [FCC, TRICLINIC])
    np.testing.assert_array_equal(cell.part(np.array([2, 0])).lattice, [TRICLINIC, HEXAGONAL])
    one = Cell(FCC)
    assert one.part(slice(0, 1)) is one


@pytest.mark.parametrize(
    "lattice",
    [
        np.zeros((3, 3)),
        np.eye(2),
        np.full((3, 3), np.nan),
        np.array([[1, 2, 3], [2, 4, 6.0], [0, 0, 1]]),
        np.eye(3)[None, None],
        np.diag([5.0, 5.0, 1e50]),
        np.diag([1e-50, 1e-50, 1e-50]),
        # independent, but the shortest vector is lost in the rounding errors of a long one that has to be reduced by it
        np.array([[5.0, 1, 1], [2, 5, 1], [1, 3, 1e11]]),
        np.array([[5.1, 2.55, 3e15], [0, 4.42, 2e15], [0, 0, 1e16]]),
        np.array([[5.0, 1e308, 0], [0, 5, 1e308], [1e-300, 0, 5]]),
    ],
)
def test_bad_lattices_are_refused(lattice):
    with pytest.raises(DataError, match="lattice"):
        Cell(lattice)


def strange_cells(seed):
    """Cells with lengths far apart, sheared, left-handed, tiny, huge, nearly flat."""
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(3, 3)) * 10.0 ** rng.uniform(0, rng.choice([1, 5, 9, 14]), 3)
    if seed % 2:  # a slab with its vacuum along an axis, in which the others have a part or none
        L = np.diag(np.diag(L)) + (seed % 3) * np.triu(rng.normal(size=(3, 3)), 1)
    for _ in range(rng.integers(0, 4)):
        i, j = rng.permutation(3)[:2]
        L[:, i] += rng.integers(-1000, 1000) * L[:, j]
    return L * 10.0 ** rng.uniform(-30, 20) * rng.choice([-1, 1])


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_any_cell_is_right_or_refused(first):
    """In exact arithmetic: what is folded differs by a lattice vector, and no neighbour is nearer."""
    neighbours = np.array(list(product((-1, 0, 1), repeat=3)), dtype=np.float64)
    accepted = 0
    for seed in range(first, first + 100):
        L = strange_cells(seed)
        try:
            cell = Cell(L)
        except DataError:
            continue
        accepted += 1
        basis = cell.native.tables()[0][0]
        shortest = np.linalg.norm(basis, axis=0).min()
        # the basis is of this lattice, but for errors much shorter than its shortest vector
        n = np.round(np.linalg.solve(L, basis))
        exact = [[sum(Fraction(L[i, k]) * int(n[k, j]) for k in range(3)) for j in range(3)] for i in range(3)]
        errors = [float(exact[i][j] - Fraction(basis[i, j])) for i in range(3) for j in range(3)]
        assert max(map(abs, errors)) < 1e-5 * shortest, (seed, L)
        assert abs(round(np.linalg.det(n))) == 1, (seed, L)
        d = folded((basis @ np.random.default_rng(seed).uniform(-0.5, 0.5, (3, 20))).T, cell)
        lengths = np.linalg.norm(d, axis=1)
        others = np.linalg.norm(d[:, None] - neighbours @ basis.T, axis=2).min(axis=1)
        assert (lengths <= others * (1 + 1e-9)).all(), (seed, L)
    assert accepted > 20


def test_a_cell_of_many_that_cannot_be_computed_with_is_named():
    with pytest.raises(DataError, match=r"too far apart.*cell 1.*vector of its own"):
        Cell([np.eye(3), [[5.0, 1, 1], [2, 5, 1], [1, 3, 1e11]]])


def test_the_bad_one_of_many_is_named():
    with pytest.raises(DataError, match="geometry 2 are linearly dependent"):
        Cell([np.eye(3), np.eye(3), np.zeros((3, 3))])


def test_image_rules():
    with pytest.raises(UsageError, match="no image rule 'nearest'"):
        Cell(np.eye(3), "nearest")
    assert image_rule_of({"lattice": np.eye(3)}) == "rounding"
    assert image_rule_of({"image_rule": np.array("minimum")}) == "minimum"
    with pytest.raises(DataError, match="newer version"):
        image_rule_of({"image_rule": "other"})
    assert Cell.of({"z": [1]}) is None
    assert _core.Cells(np.empty((0, 3, 3)), True).n_cells == 0


# ---- the pipeline


@pytest.mark.parametrize("rule", ["minimum", "rounding"])
def test_training_in_a_skewed_cell(rule, tmp_path):
    dataset = periodic_dataset(1.3 * HEXAGONAL, rule=rule)
    train = GDMLTrain()
    task = train.create_task(dataset, 60, dataset, 60, sig=5, seed=0, image_rule=rule)
    model = train.train(task)
    assert task["image_rule"] == model["image_rule"] == rule
    save_model(tmp_path / "model.npz", model)
    model = load_model(tmp_path / "model.npz")
    predictor = GDMLPredict(model)
    errors = prediction_errors(predictor, dataset, task["idxs_valid"], use_E=True)
    assert errors.mae["force"] < 0.03 * np.abs(dataset["F"]).mean()
    # the other rule is another function
    other = {**model, "image_rule": {"minimum": "rounding", "rounding": "minimum"}[rule]}
    R = dataset["R"][:20].reshape(20, -1)
    assert rule_matters(predictor.predict(R)[1], GDMLPredict(other).predict(R)[1])


def rule_matters(F, F_other):
    return np.abs(F - F_other).max() > 1e-3 * np.abs(F).max()


def test_forces_are_derivatives_in_a_skewed_cell():
    dataset = periodic_dataset(1.3 * TRICLINIC)
    model = GDMLTrain().train(GDMLTrain().create_task(dataset, 40, dataset, 10, sig=5, seed=0))
    predictor = GDMLPredict(model)
    r = dataset["R"][7].ravel()
    steps = 1e-4 * np.eye(r.size)
    E_plus, E_minus = predictor.predict(r + steps)[0], predictor.predict(r - steps)[0]
    F = predictor.predict(r)[1][0]
    np.testing.assert_allclose(-(E_plus - E_minus) / 2e-4, F, rtol=0, atol=1e-6 * np.abs(F).max())


def test_training_with_one_cell_for_each_geometry(tmp_path):
    lattices = varying_lattices(160)
    dataset = periodic_dataset(lattices)
    assert dataset["md5"].item() == dataset_md5({k: v for k, v in dataset.items() if k != "lattice"})
    train = GDMLTrain()
    task = train.create_task(dataset, 60, dataset, 60, sig=5, seed=0)
    np.testing.assert_array_equal(task["lattice"], lattices[task["idxs_train"]])
    model = train.train(task)
    save_model(tmp_path / "model.npz", model)
    predictor = GDMLPredict(load_model(tmp_path / "model.npz"))
    errors = prediction_errors(predictor, dataset, task["idxs_valid"], use_E=True)
    assert errors.mae["force"] < 0.03 * np.abs(dataset["F"]).mean()

    R = dataset["R"][:5].reshape(5, -1)
    with pytest.raises(UsageError, match="different lattice vectors"):
        predictor.predict(R)
    with pytest.raises(DataError, match="3 lattices for 5 geometries"):
        predictor.predict(R, lattice=lattices[:3])
    together = predictor.predict(R, lattice=lattices[:5])
    for i in range(5):
        E, F = predictor.predict(R[i], lattice=lattices[i])
        np.testing.assert_allclose(E[0], together[0][i], rtol=1e-12)
        np.testing.assert_allclose(F[0], together[1][i], rtol=0, atol=1e-12 * np.abs(F).max())
    assert predictor.prepare_parallel(2) > 0


def test_early_stop_with_one_cell_for_each_geometry(caplog, monkeypatch):
    monkeypatch.setattr(iterative, "MONITOR_INTERVAL", 2)  # it is over after some tens of steps
    caplog.set_level("INFO", "fastgdml")
    dataset = periodic_dataset(varying_lattices(160))
    train = GDMLTrain()
    task = train.create_task(dataset, 40, dataset, 60, sig=5, seed=0)
    R, F, lattice = (dataset[key][task["idxs_valid"]] for key in ("R", "F", "lattice"))
    train.train(task, solver="cg", tol=1e-14, held_out=(R, F, lattice))
    assert "no longer falls" in caplog.text
    with pytest.raises(UsageError, match="held_out needs those of its geometries"):
        train.train(task, solver="cg", held_out=(R, F))
    with pytest.raises(UsageError, match=r"one shape \(n, 4, 3\)"):
        train.train(task, solver="cg", held_out=(R[:, :3], F[:, :3], lattice))


def test_another_lattice_for_a_model_with_one():
    dataset = periodic_dataset(1.3 * TRICLINIC)
    model = GDMLTrain().train(GDMLTrain().create_task(dataset, 40, dataset, 10, sig=5, seed=0))
    predictor = GDMLPredict(model)
    R = dataset["R"][:3].reshape(3, -1)
    np.testing.assert_array_equal(predictor.predict(R, lattice=dataset["lattice"])[1], predictor.predict(R)[1])
    assert rule_matters(predictor.predict(R)[1], predictor.predict(R, lattice=1.01 * dataset["lattice"])[1])
    with pytest.raises(UsageError, match="needs geometries"):
        predictor.predict(lattice=dataset["lattice"])
    with pytest.raises(DataError, match="linearly dependent"):
        predictor.predict(R, lattice=np.zeros((3, 3)))


def test_a_molecule_has_no_lattice(ethanol_model, ethanol):
    with pytest.raises(UsageError, match="without lattice"):
        GDMLPredict(ethanol_model).predict(ethanol["R"][0], lattice=np.eye(3) * 20)


def test_varying_cells_with_many_training_points_are_searched_for_symmetries(monkeypatch):
    """The search is restricted to some of the points: they must keep their own cells."""
    monkeypatch.setattr("fastgdml.task_creation._MAX_SYMMETRY_POINTS", 30)
    seen = []
    monkeypatch.setattr(
        "fastgdml.task_creation.find_perms", lambda R, z, cell, *_, **__: seen.append((R, cell)) or [[0]]
    )
    dataset = periodic_dataset(varying_lattices(80), 80)
    GDMLTrain().create_task(dataset, 60, dataset, 10, sig=5, seed=0)
    ((R, cell),) = seen
    assert len(R) == 30
    for r, lattice in zip(R, cell.lattice, strict=True):
        (at,) = np.flatnonzero((dataset["R"] == r).all(axis=(1, 2)))
        np.testing.assert_array_equal(dataset["lattice"][at], lattice)


def test_symmetries_follow_the_image_rule():
    """Two atoms that swap places across the corner of a 60-degree cell look alike only at their nearest images."""
    rng = np.random.default_rng(0)
    f = np.array([[0.0, 0.0, 0.0], [0.46, 0.46, 0.0], [-0.46, -0.46, 0.0]])
    R = (f @ HEXAGONAL.T)[None] + rng.uniform(-0.4, 0.4, (40, 3, 3))
    z = np.array([8, 1, 1])
    for rule in ("minimum", "rounding"):
        cell = Cell(HEXAGONAL, rule)
        dense = np.array([[np.linalg.norm(folded((r[a] - r[b])[None], cell)) for a, b in ((1, 0), (2, 0))] for r in R])
        x = from_R(R, cell)[0]
        np.testing.assert_allclose(1 / x[:, :2], dense, rtol=1e-12)
        assert len(find_perms(R, z, cell)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lattice": np.zeros((3, 3))}, "linearly dependent"),
        ({"lattice": np.tile(np.eye(3), (3, 1, 1))}, r"lattice must be .* \(10, 3, 3\); found shape \(3, 3, 3\)"),
        ({"image_rule": "other"}, "unknown"),
    ],
)
def test_damaged_tasks_and_models_are_refused(change, message):
    dataset = periodic_dataset(1.3 * TRICLINIC, 40)
    task = GDMLTrain().create_task(dataset, 10, dataset, 10, sig=5, seed=0)
    model = GDMLTrain().train(task)
    with pytest.raises(DataError, match=message):
        check_task({**task, **change}, "task")
    with pytest.raises(DataError, match=message):
        normalize_model({**model, **change})


@pytest.mark.parametrize("rule", ["minimum", "rounding"])
@pytest.mark.parametrize("n_perms", [1, 2])
def test_reduced_solution_predicts_what_the_full_one_does(rule, n_perms):
    """Dropping three coordinates a point is exact: compare with the solve of all 3 N M equations."""
    cell = Cell(1.3 * TRICLINIC, rule)
    R = crystal(12, 1.3 * TRICLINIC)
    y, lam = springs(R, cell)[1].ravel(), 1e-6
    training = TrainingSet.from_R(R, cyclic_group(4, n_perms), 3.0, cell=cell)
    K = assemble_full(training)
    full = -np.linalg.solve(-K + lam * np.eye(len(K)), y)
    equations = TrainingEquations(R, training, lam, y, periodic=True)
    reduced = solve_closed_form(equations, processor()).alphas_F
    # All that differs is a part that K annihilates: translations of each point.
    np.testing.assert_allclose(K @ reduced, K @ full, rtol=0, atol=1e-9 * np.abs(y).max())
    np.testing.assert_allclose(reduced.reshape(12, 4, 3).sum(axis=1), 0, atol=1e-9 * np.abs(reduced).max())
    np.testing.assert_allclose(reduced, full, rtol=0, atol=1e-7 * np.abs(full).max())
