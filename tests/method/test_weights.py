"""Learned weights of pairs of atoms: objectives and their gradients, learning, and models that have weights."""

import cuda_on_host
import numpy as np
import pytest
import reference as oracle
from support.isa import isa_names
from support.models import make_model
from support.molecules import GROUPS, random_molecules, symmetric_group_of_three

from fastgdml import _core
from fastgdml.cell import Cell
from fastgdml.descriptor import from_R, jacobian_dot, pair_permutation
from fastgdml.errors import DataError, FileFormatError, UsageError
from fastgdml.evidence import Evidence
from fastgdml.exchange import to_sgdml
from fastgdml.flat import export_flat, flat_entries
from fastgdml.gpu.predict import GPUPredictor
from fastgdml.group import GroupTables
from fastgdml.kernel import Coordinates
from fastgdml.model import load_model, save_model
from fastgdml.npz import load_npz, save_npz
from fastgdml.overlap import seen_points
from fastgdml.pair_types import orbits, types
from fastgdml.predict import GDMLPredict
from fastgdml.task import load_task, save_task
from fastgdml.train import GDMLTrain
from fastgdml.training_set import TrainingSet
from fastgdml.weights import by_weight, minimise, summary

LATTICE = np.array([[9.0, 1.0, 0.0], [0.0, 8.0, 0.5], [0.2, 0.0, 7.0]])
HYDROGENS = np.ones(6, dtype=int)


def random_weights(perms, z=HYDROGENS, seed=0):
    """Weights that the group of `perms` leaves as they are."""
    classes = orbits(GroupTables.from_perms(perms), z)
    return np.exp(np.random.default_rng(seed).normal(0, 0.5, len(classes)))[classes.of_pair]


def weighted_model(R, perms, energies=False, **entries):
    """A model with random coefficients and weights."""
    model, alphas = make_model(R, perms, sig=0.7, energies=energies)
    weights = random_weights(perms, model["z"])
    x, g = from_R(R, weights=weights)
    new = {"R_desc": x.T, "R_d_desc_alpha": jacobian_dot(g, alphas), "desc_weights": weights, "perms": perms}
    return {**model, **new, **entries}, alphas


# ---- classes of pairs


def test_orbits_are_what_permutations_exchange():
    perms = symmetric_group_of_three(5)
    classes = orbits(GroupTables.from_perms(perms), [1, 1, 1, 6, 8])
    # pairs (1,0) (2,0) (2,1) | (3,0..2) | (3,... in the order of np.tril_indices
    assert classes.of_pair.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert classes.names == ("H0-H1 (3 alike)", "H0-C3 (3 alike)", "H0-O4 (3 alike)", "C3-O4")
    np.testing.assert_array_equal(classes.sums(np.arange(10.0)), [3, 12, 21, 9])


def test_orbits_of_generators_are_those_of_their_group():
    turn = np.roll(np.arange(6), 1)
    classes = orbits(GroupTables.from_perms(turn[None]), HYDROGENS)  # the group that it generates has six members
    assert len(classes) == 3
    np.testing.assert_array_equal(classes.of_pair, classes.of_pair[pair_permutation(turn)])


def test_types_are_elements_and_bonds_between(ethanol):
    x, _ = from_R(ethanol["R"][:10])
    tables = GroupTables.from_perms(np.arange(9)[None])
    classes = types(tables, ethanol["z"], 1 / x.mean(axis=0))
    pairs = dict(zip(zip(*np.tril_indices(9, -1), strict=True), classes.of_pair, strict=True))
    assert classes.names[pairs[1, 0]] == "C-C, 1 bond apart"
    assert classes.names[pairs[3, 2]] == "H-O, 1 bond apart"
    assert classes.names[pairs[2, 0]] == "C-O, 2 bonds apart"
    assert classes.names[pairs[8, 3]] == "H-H, 4 bonds apart"
    assert len(classes) == 12


# ---- the gradient


@pytest.mark.parametrize("isa", isa_names())
@pytest.mark.parametrize("group", GROUPS)
def test_the_trace_is_that_of_finite_differences(group, isa, monkeypatch):
    monkeypatch.setenv("FASTGDML_ISA", isa)
    perms, R = GROUPS[group](4), random_molecules(10, 4, seed=1)
    weights, rng = random_weights(perms, np.ones(4)), np.random.default_rng(2)
    dropped = rng.permutation(10)[:5]  # some points have fewer rows
    rows = Coordinates.from_lists([np.arange(2 if i in dropped else 0, 12) for i in range(10)])
    chosen = np.concatenate([12 * i + rows.coord[rows.begin[i] : rows.begin[i + 1]] for i in range(10)])
    A = rng.normal(size=(rows.size, rows.size))
    A += A.T

    point = np.repeat(np.arange(10), np.diff(rows.begin))
    counted = np.sign(point[:, None] - point) + 1  # a set that is no group has another upper triangle, which none reads

    def trace(log_w):
        K = oracle.kernel_matrix(R, perms, 0.6, weights=np.exp(log_w))
        return (counted * A * K[np.ix_(chosen, chosen)]).sum()

    training = TrainingSet.from_R(R, perms, 0.6, weights=weights)
    lower = np.asfortranarray(np.tril(A))
    found = _core.trace_derivatives(training.x, training.g, training.tables, 0.6, rows.begin, rows.coord, lower, 2)
    classes = orbits(training.tables, np.ones(4))
    by_class = classes.sums(found)
    for c in range(len(classes)):
        step = 1e-5 * (classes.of_pair == c)
        numerical = (trace(np.log(weights) + step) - trace(np.log(weights) - step)) / 2e-5
        assert by_class[c] == pytest.approx(numerical, rel=1e-6, abs=1e-6 * np.abs(by_class).max())


def test_the_trace_does_not_depend_on_the_number_of_threads():
    perms = symmetric_group_of_three(6)
    R = random_molecules(37, 6)
    training, rows = TrainingSet.from_R(R, perms, 0.8), Coordinates.full(37, 18)
    A = np.asfortranarray(np.random.default_rng(0).normal(size=(rows.size, rows.size)))
    arguments = (training.x, training.g, training.tables, 0.8, rows.begin, rows.coord, A)
    one = _core.trace_derivatives(*arguments, 1)
    for n_threads in (2, 3, 8):
        np.testing.assert_array_equal(_core.trace_derivatives(*arguments, n_threads), one)


@pytest.fixture(scope="module")
def some_points(ethanol):
    """Points of ethanol with forces, and the permutations of its hydrogens."""
    perms = [np.arange(9), [0, 1, 2, 3, 5, 4, 6, 8, 7]]
    return ethanol["R"][:300:25], ethanol["F"][:300:25], np.array(perms), ethanol["z"]


@pytest.mark.parametrize("kind", ["likelihood", "leave-one-out"])
@pytest.mark.parametrize("periodic", [False, True])
def test_gradients_of_objectives_are_those_of_finite_differences(some_points, kind, periodic):
    R, F, perms, z = some_points
    cell = Cell(LATTICE, "minimum") if periodic else None
    training = TrainingSet.from_R(R, perms, 1.0, cell=cell)
    evidence = Evidence(R, F, training, 1e-6, periodic, kind)
    classes = orbits(training.tables, z)
    theta = -np.log(15.0) + np.log(random_weights(perms, z))
    value = evidence(theta)
    gradient = classes.sums(value.gradient)
    assert np.abs(gradient).max() > 1e-3
    for c in range(len(classes)):
        step = 1e-4 * (classes.of_pair == c)
        numerical = (evidence(theta + step).f - evidence(theta - step).f) / 2e-4
        assert gradient[c] == pytest.approx(numerical, rel=1e-4, abs=1e-6)


def test_objectives_are_what_they_are_called(some_points):
    """Both against dense linear algebra: the density of all forces, and models without one geometry each."""
    R, F, perms, _ = some_points
    lam, sig = 1e-5, 12.0
    y = F.ravel() / F.std()
    K = -oracle.kernel_matrix(R, perms, sig)
    training = TrainingSet.from_R(R, perms, 1.0)
    theta = np.full(36, -np.log(sig))

    def likelihood(theta):
        return Evidence(R, F, training, lam)(theta).f

    # in the space without rigid motions, where C is positive definite with lam alone
    motions = np.linalg.eigh(oracle_projector(R))[1][:, -21 * len(R) :]
    basis = motions
    C = basis.T @ (K + lam * np.eye(len(K))) @ basis
    z = basis.T @ y
    m = len(z)
    s2 = z @ np.linalg.solve(C, z) / m
    expected = 0.5 * np.log(s2) + 0.5 * np.linalg.slogdet(C)[1] / m
    other = -oracle.kernel_matrix(R, perms, sig * 1.3)
    C_other = basis.T @ (other + lam * np.eye(len(K))) @ basis
    s2_other = z @ np.linalg.solve(C_other, z) / m
    change = 0.5 * np.log(s2_other) + 0.5 * np.linalg.slogdet(C_other)[1] / m - expected
    # the objective leaves out a constant that depends on the geometries alone
    assert likelihood(theta - np.log(1.3)) - likelihood(theta) == pytest.approx(change, rel=1e-6)

    squared = 0.0
    projector = oracle_projector(R)
    for i in range(len(R)):
        own = slice(27 * i, 27 * i + 27)
        rest = np.setdiff1d(np.arange(len(y)), np.arange(27 * i, 27 * i + 27))
        alpha = np.linalg.solve(
            K[np.ix_(rest, rest)] + lam * np.eye(len(rest)), projector[np.ix_(rest, rest)] @ y[rest]
        )
        residual = projector[own, own] @ y[own] - K[own][:, rest] @ alpha
        squared += residual @ residual
    found = Evidence(R, F, training, lam, kind="leave-one-out")(theta).f
    assert found == pytest.approx(0.5 * np.log(squared / len(y)), rel=1e-6)


def oracle_projector(R):
    """The projector (3NM, 3NM) on what is no rigid motion."""
    blocks = []
    for r in R:
        centred = r - r.mean(axis=0)
        motions = [np.tile(axis, len(r)) for axis in np.eye(3)]
        motions += [np.cross(axis, centred).ravel() for axis in np.eye(3)]
        Q = np.linalg.qr(np.array(motions).T)[0]
        blocks.append(np.eye(r.size) - Q @ Q.T)
    P = np.zeros((R.size, R.size))
    for i, block in enumerate(blocks):
        P[27 * i : 27 * i + 27, 27 * i : 27 * i + 27] = block
    return P


# ---- learning


def test_planted_weights_are_found(some_points):
    """Labels that a model with weights of its own predicts lead back to these weights."""
    _, _, perms, z = some_points
    rng = np.random.default_rng(3)
    R = some_points[0][0] + rng.normal(0, 0.08, (30, 9, 3))
    training = TrainingSet.from_R(R, perms, 1.0)
    classes = types(training.tables, z, 1 / training.x.mean(axis=0))
    planted = -np.log(10.0) + rng.normal(0, 0.7, len(classes))[classes.of_pair]
    K = -oracle_kernel(R, perms, np.exp(planted))
    values, vectors = np.linalg.eigh(K)
    F = (vectors @ (np.sqrt(np.maximum(values, 0)) * rng.normal(size=len(values)))).reshape(R.shape)
    evidence = Evidence(R, F, training, 1e-8)
    found = minimise(evidence, classes, -np.log(20.0))
    assert evidence(found).f < evidence(np.full(36, planted.mean())).f - 0.05
    assert np.corrcoef(found, planted)[0, 1] > 0.9
    assert abs(found.mean() - planted.mean()) < 0.3


def oracle_kernel(R, perms, weights):
    from fastgdml.kernel import assemble_full

    return np.asarray(assemble_full(TrainingSet.from_R(R, perms, 1.0, weights=weights)))


def test_what_is_learned_is_the_same_for_the_group_and_for_a_seed(some_points):
    R, F, perms, z = some_points
    training = TrainingSet.from_R(R, perms, 1.0)
    classes = orbits(training.tables, z)
    found = minimise(Evidence(R, F, training, 1e-8), classes, -np.log(20.0))
    for perm in perms:
        np.testing.assert_array_equal(found[pair_permutation(perm)], found)
    again = minimise(Evidence(R, F, training, 1e-8), classes, -np.log(20.0))
    np.testing.assert_array_equal(again, found)
    # images of the geometries are the same data
    images, turned = R.copy(), F.copy()
    images[::2], turned[::2] = R[::2][:, perms[1]], F[::2][:, perms[1]]
    other = minimise(Evidence(images, turned, TrainingSet.from_R(images, perms, 1.0), 1e-8), classes, -np.log(20.0))
    np.testing.assert_allclose(other, found, atol=2e-3)


@pytest.fixture(scope="module")
def learned(ethanol):
    """A task with learned weights of 60 points, and the progress that was reported."""
    steps = []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        steps.append((disp_str, sec_disp_str))

    train = GDMLTrain(max_processes=1)
    return train.create_task(ethanol, 60, ethanol, 100, sig=20, seed=4, weights="orbits", callback=callback), steps


def test_a_task_learns_weights_that_help(learned, ethanol):
    task, steps = learned
    assert task["desc_weights"].shape == (36,)
    assert (task["weights_gain"] > 0.05).all()
    for perm in task["perms"]:
        np.testing.assert_allclose(task["desc_weights"][pair_permutation(perm)], task["desc_weights"], rtol=1e-12)
    assert np.log(task["desc_weights"]).mean() == pytest.approx(0, abs=1e-3)
    assert any(text.startswith("Learning weights of ") and detail and "objective" in detail for text, detail in steps)

    train = GDMLTrain(max_processes=1)
    points = np.setdiff1d(np.arange(len(ethanol["R"])), np.r_[task["idxs_train"], task["idxs_valid"]])[::5]
    R, F = ethanol["R"][points].reshape(len(points), -1), ethanol["F"][points].reshape(len(points), -1)
    plain = {key: value for key, value in task.items() if key != "desc_weights"}
    with_weights = np.abs(GDMLPredict(train.train(task)).predict(R)[1] - F).mean()
    without = min(
        np.abs(GDMLPredict(train.train({**plain, "sig": s})).predict(R)[1] - F).mean() for s in (10, 14, 20, 28)
    )
    assert with_weights < 0.95 * without


def test_weights_that_do_not_help_are_given_up(ethanol, caplog):
    # labels without any structure: nothing helps but by chance, and two validation points judge
    rng = np.random.default_rng(0)
    noise = {**ethanol, "F": rng.normal(size=ethanol["F"].shape), "E": rng.normal(size=len(ethanol["F"]))}
    task = GDMLTrain(max_processes=1).create_task(noise, 10, noise, 40, sig=20, seed=0, lam=1e-3, weights="orbits")
    if "desc_weights" in task:
        assert (task["weights_gain"] >= 0).all()
    else:
        assert "are given up" in caplog.text


def test_what_cannot_be_learned_is_said(ethanol):
    train = GDMLTrain(max_processes=1)
    with pytest.raises(UsageError, match=r"weights must be one of none, orbits, types; got 'pairs'\."):
        train.create_task(ethanol, 10, ethanol, 10, sig=20, weights="pairs")
    with pytest.raises(UsageError, match="n_valid must be at least 1"):
        train.create_task(ethanol, 10, ethanol, 0, sig=20, weights="orbits")


def test_orbits_are_listed_by_weight_and_those_that_carry_nothing_named():
    z, perms = np.array([1, 1, 8]), np.array([[0, 1, 2], [1, 0, 2]])
    assert by_weight(np.array([1.0, 3.0, 3.0]), perms, z) == [("H0-O2 (2 alike)", 3.0), ("H0-H1", 1.0)]
    points = {"idxs_train": [0], "idxs_valid": [1], "md5_train": "a", "md5_valid": "a"}
    model = {
        **points,
        "z": z,
        "perms": perms,
        "sig": 10.0,
        "weights": "orbits",
        "weights_gain": np.array([0.3, np.nan]),
    }
    rows = dict(summary({**model, "desc_weights": np.array([0.02, 7.0, 7.0])}))
    assert rows == {
        "Weights of pairs": "learned (orbits)",
        "Validation errors": "forces -30%, against no weights at the best sigma",
        "Heaviest pairs": "H0-O2 (2 alike) 7.00, H0-H1 0.02",
        "Pairs below 0.1": "H0-H1: they carry next to nothing",
    }
    assert "given up" in dict(summary(model))["Weights of pairs"]
    assert summary({**model, "weights": "none"}) == []


# ---- models


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_predictions_are_those_of_the_oracle(group, energies):
    perms, R_train, R = GROUPS[group](6), random_molecules(9, 6), random_molecules(5, 6, seed=7)
    model, alphas = weighted_model(R_train, perms, energies)
    weights = model["desc_weights"]
    expected = oracle.predict(
        R, R_train, alphas, perms, 0.7, 2.5, -7.0, alphas_E=model.get("alphas_E"), weights=weights
    )
    for predictor in (GDMLPredict(model), GPUPredictor.from_model(model, np)):
        E, F, virial = predictor.predict(R.reshape(5, -1), return_virial=True)
        np.testing.assert_allclose(E, expected[0], rtol=1e-10)
        np.testing.assert_allclose(F.reshape(R.shape), expected[1], atol=1e-9 * np.abs(expected[1]).max())
        h = 1e-5
        for i, j in ((0, 0), (1, 0), (2, 1)):
            strain = np.zeros((3, 3))
            strain[i, j] = strain[j, i] = h if i == j else h / 2
            up, down = (predictor.predict((R + s * R @ strain).reshape(5, -1))[0] for s in (1, -1))
            np.testing.assert_allclose(virial[:, i, j], (down - up) / (2 * h), atol=1e-6 * np.abs(virial).max())


def test_a_device_predicts_with_weights():
    """Few geometries, too: those that the fused kernels would take."""
    if cuda_on_host.compiler() is None:
        pytest.skip("there is no g++, which compiles CUDA kernels for the processor: install it")
    perms, R = symmetric_group_of_three(6), random_molecules(9, 6)
    model, _ = weighted_model(R, perms, energies=True)
    queries = random_molecules(2, 6, seed=7).reshape(2, -1)
    expected = GDMLPredict(model).predict(queries, return_virial=True)
    for precision in ("double", "mixed"):
        found = GPUPredictor.from_model(model, cuda_on_host.host_cupy(), precision=precision).predict(
            queries, return_virial=True
        )
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max())


@pytest.mark.parametrize("n_threads", [1, 3])
def test_weights_of_one_are_no_weights(n_threads):
    perms, R = symmetric_group_of_three(6), random_molecules(30, 6)
    model, _ = make_model(R, perms, energies=True)
    queries = random_molecules(9, 6, seed=3).reshape(9, -1)
    plain = GDMLPredict(model, max_processes=n_threads).predict(queries, return_virial=True)
    ones = GDMLPredict({**model, "desc_weights": np.ones(15)}, max_processes=n_threads)
    for a, b in zip(ones.predict(queries, return_virial=True), plain, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_common_weight_is_another_sigma(ethanol):
    train = GDMLTrain(max_processes=1)
    task = train.create_task(ethanol, 20, ethanol, 5, sig=20, seed=1, lam=1e-8)
    plain, scaled = train.train(task), train.train({**task, "sig": 40.0, "desc_weights": np.full(36, 2.0)})
    queries = ethanol["R"][:7].reshape(7, -1)
    for a, b in zip(GDMLPredict(scaled).predict(queries), GDMLPredict(plain).predict(queries), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("options", [{"solver": "closed"}, {"solver": "cg", "tol": 1e-10}], ids=["closed", "cg"])
@pytest.mark.parametrize("constrained", [False, True])
def test_every_solver_trains_with_weights(ethanol, options, constrained, periodic):
    data = {**ethanol, "lattice": 2 * LATTICE} if periodic else ethanol
    train = GDMLTrain(max_processes=1)
    task = train.create_task(data, 12, data, 5, sig=5, seed=1, lam=1e-4, use_E_cstr=constrained)
    task["desc_weights"] = random_weights(task["perms"], task["z"])
    model = train.train(task, **options)
    R, y = task["R_train"], task["F_train"].ravel()
    K = -oracle.kernel_matrix(
        R, task["perms"], 5.0, task.get("lattice"), energies=constrained, weights=task["desc_weights"]
    )
    labels = np.concatenate([y, np.mean(task["E_train"]) - task["E_train"]]) if constrained else y
    alphas = -np.linalg.solve(K + 1e-4 * np.eye(len(K)), labels / labels.std())
    F_expected = -(K @ alphas)[: len(y)] * labels.std()
    _, F = GDMLPredict(model).predict(R.reshape(12, -1))
    np.testing.assert_allclose(F.ravel(), F_expected, atol=1e-4 * np.abs(F_expected).max())


def test_forces_are_derivatives_in_any_cell():
    perms, R = symmetric_group_of_three(6), random_molecules(9, 6)
    model, _ = weighted_model(R, perms, lattice=LATTICE, image_rule="minimum")
    predictor, r, h = GDMLPredict(model), random_molecules(1, 6, seed=5).ravel(), 1e-5
    _, F = predictor.predict(r)
    numerical = [
        (predictor.predict(r - h * step)[0] - predictor.predict(r + h * step)[0])[0] / (2 * h) for step in np.eye(18)
    ]
    np.testing.assert_allclose(F[0], numerical, atol=1e-6 * np.abs(F).max())


@pytest.mark.parametrize("way", ["processor", "NumPy"])
@pytest.mark.parametrize("energies", [False, True])
def test_hessians_are_derivatives_of_forces(way, energies):
    perms, R = symmetric_group_of_three(6), random_molecules(9, 6)
    model, _ = weighted_model(R, perms, energies)
    predictor, r, h = GDMLPredict(model), random_molecules(1, 6, seed=5).reshape(1, -1), 1e-5
    engine = predictor._engine if way == "processor" else GPUPredictor.from_model(model, np)
    forces = [(engine.predict(r - h * step)[1] - engine.predict(r + h * step)[1])[0] / (2 * h) for step in np.eye(18)]
    found = engine.hessian(r)[2]
    np.testing.assert_allclose(found.reshape(18, 18), forces, atol=1e-6 * np.abs(found).max())


def test_new_coefficients_keep_the_weights():
    perms, R = symmetric_group_of_three(6), random_molecules(9, 6)
    model, alphas = weighted_model(R, perms)
    predictor = GDMLPredict(model)
    predictor.set_R_d_desc(from_R(R, weights=model["desc_weights"])[1])
    predictor.set_alphas(2 * alphas)
    E, F = predictor.predict(R.reshape(9, -1))
    E_before, F_before = GDMLPredict(model).predict(R.reshape(9, -1))
    np.testing.assert_allclose(E - model["c"], 2 * (E_before - model["c"]), rtol=1e-10)
    np.testing.assert_allclose(F, 2 * F_before, rtol=1e-8, atol=1e-10)


# ---- files


def test_files_keep_weights(tmp_path, learned, ethanol):
    task = learned[0]
    save_task(tmp_path / "task.npz", task)
    np.testing.assert_array_equal(load_task(tmp_path / "task.npz")["desc_weights"], task["desc_weights"])
    model = GDMLTrain(max_processes=1).train(task)
    np.testing.assert_array_equal(model["desc_weights"], task["desc_weights"])
    np.testing.assert_array_equal(model["weights_gain"], task["weights_gain"])
    save_model(tmp_path / "model.npz", model)
    export_flat(tmp_path / "model.fgdml", model)
    queries = ethanol["R"][:5].reshape(5, -1)
    direct = GDMLPredict(model).predict(queries, return_virial=True)
    with np.load(tmp_path / "model.npz") as arrays:
        raw = dict(arrays)
    for way in (tmp_path / "model.npz", tmp_path / "model.fgdml", raw):
        for a, b in zip(GDMLPredict(way).predict(queries, return_virial=True), direct, strict=True):
            np.testing.assert_array_equal(a, b)
    assert load_model(tmp_path / "model.npz").keys() == model.keys()
    np.testing.assert_array_equal(flat_entries(tmp_path / "model.fgdml")["desc_weights"], task["desc_weights"])
    for found in (load_model(tmp_path / "model.npz"), flat_entries(tmp_path / "model.fgdml")):
        without_md5 = {**found, "md5_train": b""}
        assert set(task["idxs_train"]) <= set(seen_points(without_md5, ethanol).tolist())


def test_programs_that_know_no_weights_refuse_the_files(tmp_path):
    perms = symmetric_group_of_three(6)
    model, _ = weighted_model(random_molecules(9, 6), perms, type="m")
    save_model(tmp_path / "model.npz", model)
    assert "tril_perms_lin" not in load_npz(
        tmp_path / "model.npz"
    )  # without it neither sgdml nor older versions predict
    export_flat(tmp_path / "model.fgdml", model)
    data = bytearray((tmp_path / "model.fgdml").read_bytes())
    assert data[12] == 2  # the version of the format: older libraries read 1
    plain = {key: value for key, value in model.items() if key != "desc_weights"}
    export_flat(tmp_path / "plain.fgdml", plain)
    assert (tmp_path / "plain.fgdml").read_bytes()[12] == 1
    data[12] = 4
    (tmp_path / "newer.fgdml").write_bytes(data)
    with pytest.raises(FileFormatError, match="has version 4 of the format; this library reads versions 1 to 3"):
        GDMLPredict(tmp_path / "newer.fgdml")
    with pytest.raises(
        DataError, match=r"learned weights of pairs of atoms \(desc_weights\), which sgdml does not know"
    ):
        to_sgdml({**model, "solver_name": "analytic"})


@pytest.mark.parametrize(
    "weights",
    [np.ones(14), -np.ones(15), np.full(15, np.nan), np.zeros(15), np.arange(1.0, 16.0)],
    ids=["too few", "negative", "not finite", "zero", "moved by the group"],
)
def test_wrong_weights_are_refused(weights, tmp_path, ethanol):
    model, _ = weighted_model(random_molecules(9, 6), symmetric_group_of_three(6), type="m")
    with pytest.raises(DataError, match="weights"):
        GDMLPredict({**model, "desc_weights": weights})
    save_npz(tmp_path / "model.npz", {**model, "desc_weights": weights})
    with pytest.raises(DataError, match="weights"):
        GDMLPredict(tmp_path / "model.npz")


def test_tasks_with_wrong_weights_are_refused(some_points, ethanol):
    train = GDMLTrain(max_processes=1)
    task = train.create_task(ethanol, 10, ethanol, 5, sig=20, seed=1, perms=some_points[2])
    for weights in (np.ones(35), np.arange(1.0, 37.0)):
        with pytest.raises(DataError, match="desc_weights"):
            train.train({**task, "desc_weights": weights})
