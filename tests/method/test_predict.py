import copy
import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from reference import predict
from scipy.spatial.transform import Rotation
from support.models import make_model
from support.molecules import GROUPS, cyclic_group, random_molecules, symmetric_group_of_three

from fastgdml import _core
from fastgdml.descriptor import from_R
from fastgdml.errors import DataError, UsageError
from fastgdml.flat import export_flat
from fastgdml.model import load_model, save_model
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain


@pytest.mark.parametrize("energies", [False, True], ids=["forces", "energies"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("n_atoms", "n_train"), [(3, 1), (5, 8), (6, 57), (4, 130)])
def test_equals_oracle(group, n_atoms, n_train, energies, isa):
    perms = GROUPS[group](n_atoms)
    R_train, R = random_molecules(n_train, n_atoms), random_molecules(7, n_atoms, seed=9)
    model, alphas = make_model(R_train, perms, energies=energies)
    E_ref, F_ref = predict(
        R, R_train, alphas, perms, model["sig"], model["std"], model["c"], alphas_E=model.get("alphas_E")
    )
    E, F = GDMLPredict(model).predict(R.reshape(7, -1))
    np.testing.assert_allclose(E, E_ref, rtol=0, atol=1e-12 * max(1, np.abs(E_ref).max()))
    np.testing.assert_allclose(F.reshape(F_ref.shape), F_ref, rtol=0, atol=1e-12 * np.abs(F_ref).max())


def test_equals_sgdml(reference, isa):
    model = {key: reference[key] for key in ("z", "R_d_desc_alpha", "tril_perms_lin", "sig", "std", "c")}
    model["R_desc"] = reference["R_desc"].T
    model |= {key: reference[key] for key in ("lattice", "alphas_E") if key in reference}
    E, F = GDMLPredict(model).predict(reference["R_test"].reshape(len(reference["R_test"]), -1))
    force_scale = np.abs(reference["F_pred"]).max()
    np.testing.assert_allclose(F, reference["F_pred"], rtol=0, atol=1e-9 * force_scale)
    # coefficients of energies are huge and of both signs: rounding of their sum
    cancelled = np.finfo(float).eps * np.abs(reference.get("alphas_E", 0.0)).sum() * len(reference["perms"])
    tolerance = 1e-9 * force_scale + float(reference["std"]) * cancelled
    np.testing.assert_allclose(E, reference["E_pred"], rtol=0, atol=tolerance)


def test_files_of_sgdml_with_energy_constraints_load(shared):
    model = load_model(shared("reference/ethanol_ecstr_model_sgdml103.npz"))
    with np.load(shared("reference/ethanol_ecstr.npz")) as reference:
        R, E_ref, F_ref = (reference[key] for key in ("R_test", "E_pred", "F_pred"))
    E, F = GDMLPredict(model).predict(R.reshape(len(R), -1))
    np.testing.assert_allclose(F, F_ref, rtol=0, atol=1e-9 * np.abs(F_ref).max())
    np.testing.assert_allclose(E, E_ref, rtol=1e-9)


@pytest.mark.parametrize("molecule", ["ethanol", "aspirin"])
def test_models_of_the_authors_reproduce_their_errors(shared, molecule):
    model = load_model(shared(f"data/legacy_model_{molecule}_sgdml2018.npz"))
    with np.load(shared(f"data/md17_{molecule}.npz")) as data:
        R, E_ref, F_ref = data["R"][:2000], data["E"][:2000], data["F"][:2000]
    E, F = GDMLPredict(model).predict(R.reshape(len(R), -1))
    # 2000 of the 200,000 frames that the recorded errors are an average of
    assert np.abs(F - F_ref.reshape(F.shape)).mean() == pytest.approx(float(model["f_err_mae"]), rel=0.06)
    assert np.abs(E - E_ref).mean() == pytest.approx(float(model["e_err_mae"]), rel=0.06)


@pytest.mark.parametrize("energies", [False, True], ids=["forces", "energies"])
def test_force_is_minus_the_gradient_of_the_energy(ethanol_model, ethanol, energies):
    # With energies, coefficients whose part of the force is not small
    alphas_E = 1e3 * np.random.default_rng(0).normal(size=30)
    predictor = GDMLPredict({**ethanol_model, "alphas_E": alphas_E} if energies else ethanol_model)
    r = ethanol["R"][1234].ravel()
    _, F = predictor.predict(r)
    h = 1e-4
    steps = h * np.eye(r.size)
    E_plus, _ = predictor.predict(r + steps)
    E_minus, _ = predictor.predict(r - steps)
    # error of order h^2 times third derivatives, and of rounding, 1e-12 / h
    np.testing.assert_allclose(F[0], -(E_plus - E_minus) / (2 * h), atol=1e-4 * np.abs(F).max())


def test_no_net_force_or_torque(ethanol_model, ethanol):
    R = ethanol["R"][:50]
    _, F = GDMLPredict(ethanol_model).predict(R.reshape(50, -1))
    F = F.reshape(R.shape)
    np.testing.assert_allclose(F.sum(axis=1), 0, atol=1e-10)
    np.testing.assert_allclose(np.cross(R, F).sum(axis=1), 0, atol=1e-9)


def test_permutations_in_the_group_permute_forces_only(ethanol_model, ethanol):
    predictor = GDMLPredict(ethanol_model)
    r = ethanol["R"][77]
    E, F = predictor.predict(r.ravel())
    assert len(ethanol_model["perms"]) > 1
    for perm in ethanol_model["perms"]:
        E_perm, F_perm = predictor.predict(r[perm].ravel())
        np.testing.assert_allclose(E_perm, E, rtol=1e-12)
        np.testing.assert_allclose(F_perm.reshape(-1, 3), F.reshape(-1, 3)[perm], atol=1e-9)


def test_rotation_and_translation_turn_forces_only(ethanol_model, ethanol):
    predictor = GDMLPredict(ethanol_model)
    r = ethanol["R"][78]
    turn = Rotation.from_rotvec([0.3, -1.2, 2.0]).as_matrix()
    E, F = predictor.predict(r.ravel())
    E_turned, F_turned = predictor.predict((r @ turn.T + [5.0, -3.0, 1.0]).ravel())
    np.testing.assert_allclose(E_turned, E, rtol=1e-12)
    np.testing.assert_allclose(F_turned.reshape(-1, 3), F.reshape(-1, 3) @ turn.T, atol=1e-9)


@pytest.mark.parametrize("energies", [False, True], ids=["forces", "energies"])
@pytest.mark.parametrize("n_train", [30, 1500])  # the second in parallel over training points, too
def test_bits_do_not_depend_on_threads_or_batches(n_train, energies, isa):
    perms = symmetric_group_of_three(9)
    model, _ = make_model(random_molecules(n_train, 9), perms, energies=energies)
    R = random_molecules(23, 9, seed=4).reshape(23, -1)
    E, F = GDMLPredict(model, max_processes=1).predict(R)
    for n_threads in (1, 2, 5):
        predictor = GDMLPredict(model, max_processes=n_threads)
        for n_bulk in (1, 2, 3, 7, 23):
            for first in range(0, 23, n_bulk):
                part = slice(first, min(first + n_bulk, 23))
                E_part, F_part = predictor.predict(R[part])
                np.testing.assert_array_equal(E_part, E[part])
                np.testing.assert_array_equal(F_part, F[part])


def test_models_live_side_by_side_and_threads_share_them():
    R = random_molecules(40, 6, seed=5).reshape(40, -1)
    predictors = [GDMLPredict(make_model(random_molecules(60, 6), cyclic_group(6, 3), seed=s)[0]) for s in range(3)]
    expected = [p.predict(R)[1] for p in predictors]
    wrong = []

    def work(which):
        for _ in range(20):
            if not np.array_equal(predictors[which].predict(R)[1], expected[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(i % 3,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("shape", [(27,), (9, 3), (1, 27), (1, 9, 3)])
def test_one_geometry_in_any_shape(ethanol_model, ethanol, shape):
    E, F = GDMLPredict(ethanol_model).predict(ethanol["R"][0].reshape(shape))
    assert E.shape == (1,)
    assert F.shape == (1, 27)


def test_no_geometries():
    model, _ = make_model(random_molecules(4, 3), [[0, 1, 2]])
    E, F = GDMLPredict(model).predict(np.empty((0, 9)))
    assert E.shape == (0,)
    assert F.shape == (0, 9)


def test_return_E_false_leaves_out_energies(ethanol_model, ethanol):
    R = ethanol["R"][:3].reshape(3, -1)
    predictor = GDMLPredict(ethanol_model)
    (F,) = predictor.predict(R, return_E=False)
    np.testing.assert_array_equal(F, predictor.predict(R)[1])


@pytest.mark.parametrize("shape", [(26,), (2, 28), (3, 9), (27, 2)])
def test_wrong_number_of_coordinates(ethanol_model, shape):
    with pytest.raises(DataError, match="9 atoms"):
        GDMLPredict(ethanol_model).predict(np.ones(shape))


def test_broken_geometries_are_named(ethanol_model, ethanol):
    R = ethanol["R"][:9].copy()
    R[6, 0] = R[6, 1]
    with pytest.raises(DataError, match="geometry 6"):
        GDMLPredict(ethanol_model).predict(R.reshape(9, -1))
    R[6, 0] = np.inf
    with pytest.raises(DataError, match=r"Geometry 6 .*not finite"):
        GDMLPredict(ethanol_model).predict(R.reshape(9, -1))


def test_training_set_and_new_coefficients(ethanol_model, ethanol_task):
    x, g = from_R(ethanol_task["R_train"])
    predictor = GDMLPredict(ethanol_model)
    with pytest.raises(UsageError, match="set_R_desc"):
        predictor.predict()
    with pytest.raises(UsageError, match="set_R_d_desc"):
        predictor.set_alphas(ethanol_model["alphas_F"])
    predictor.set_R_desc(x)
    predictor.set_R_d_desc(g)
    R = ethanol_task["R_train"].reshape(len(x), -1)
    np.testing.assert_array_equal(predictor.predict()[1], predictor.predict(R)[1])
    before = predictor.predict(R)
    predictor.set_alphas(2 * ethanol_model["alphas_F"])
    np.testing.assert_allclose(predictor.predict(R)[1], 2 * before[1], rtol=1e-9, atol=1e-9)
    with pytest.raises(UsageError, match="elements"):
        predictor.set_alphas(np.ones(5))
    for wrong in (x.T, x[:-1], x[:, :-1], np.zeros((3000, 36))):
        with pytest.raises(UsageError, match="R_desc has shape"):
            predictor.set_R_desc(wrong)


def test_new_coefficients_of_energy_constraints(ethanol_model, ethanol_task):
    x, g = from_R(ethanol_task["R_train"])
    R = ethanol_task["R_train"].reshape(len(x), -1)
    alphas_E = np.random.default_rng(0).normal(size=len(x))
    predictor = GDMLPredict(ethanol_model)
    without = predictor.predict(R)
    predictor.set_R_desc(x)
    predictor.set_R_d_desc(g)
    predictor.set_alphas(ethanol_model["alphas_F"], alphas_E)
    expected = GDMLPredict({**ethanol_model, "alphas_E": alphas_E}).predict(R)
    assert np.abs(expected[1] - without[1]).max() > 1e-3
    for result in (predictor.predict(R), predictor.predict()):
        np.testing.assert_allclose(result[0], expected[0], rtol=1e-12)
        np.testing.assert_allclose(result[1], expected[1], rtol=0, atol=1e-9 * np.abs(expected[1]).max())
    predictor.set_alphas(ethanol_model["alphas_F"])
    np.testing.assert_allclose(predictor.predict(R)[1], without[1], rtol=0, atol=1e-9 * np.abs(without[1]).max())
    with pytest.raises(UsageError, match="alphas_E has 5 elements; one for each of 30"):
        predictor.set_alphas(ethanol_model["alphas_F"], np.ones(5))
    with pytest.raises(DataError, match=r"alphas_E must be .* \(30,\); found shape \(29,\)"):
        GDMLPredict({**ethanol_model, "alphas_E": alphas_E[1:]})


def test_prepare_parallel_measures(ethanol_model):
    predictor = GDMLPredict(ethanol_model)
    assert predictor.prepare_parallel(n_bulk=10) > 0
    rate, from_cache = predictor.prepare_parallel(n_bulk=1, return_is_from_cache=True)
    assert rate > 0
    assert from_cache is False


def test_incomplete_models_are_refused(ethanol_model):
    with pytest.raises(DataError, match="R_desc"):
        GDMLPredict({k: v for k, v in ethanol_model.items() if k != "R_desc"})
    with pytest.raises(DataError, match=r"R_desc must be .* \(28, M\)"):
        GDMLPredict({**ethanol_model, "z": np.ones(8, dtype=int)})


@pytest.mark.parametrize("n_train", [1, 7, 48, 112, 113, 200, 500, 1000, 5001])
def test_tiles_cover_the_training_set_with_little_padding(n_train):
    tile = _core.tile_size(n_train, 50)
    padded = -(-n_train // tile) * tile
    assert tile % 8 == 0
    assert padded >= n_train
    assert padded <= 1.1 * n_train + 8
    assert _core.tile_size(n_train, 10**5) in (8, 16)
    assert _core.tile_size(n_train, 10**9) == 8


# ---- what a program that uses a model needs to know of its cell


def test_cells(tmp_path):
    molecule, _ = make_model(random_molecules(3, 5), cyclic_group(5, 2))
    lattice = np.array([[9.0, 1.0, 0.0], [0.0, 8.0, 0.5], [0.2, 0.0, 7.0]])
    crystal = {**molecule, "lattice": lattice}
    export_flat(tmp_path / "crystal.fgdml", crystal)
    for model in (crystal, tmp_path / "crystal.fgdml"):
        predictor = GDMLPredict(model)
        assert predictor.periodic
        np.testing.assert_array_equal(predictor.lattice, lattice)
        predictor.require_cell(lattice)
        predictor.require_cell((Rotation.from_euler("xyz", (0.3, 1.0, 2.0)).as_matrix() @ lattice).tolist())
        with pytest.raises(DataError, match=r"The box is not the cell .* edges .* holds in no other\.$"):
            predictor.require_cell(1.01 * lattice, "The box")
        with pytest.raises(DataError, match=r"The cell has shape \(3,\)"):
            predictor.require_cell(np.ones(3))
    of_several = {**molecule, "lattice": np.array([lattice, 1.1 * lattice, 1.2 * lattice])}
    for model, periodic in ((molecule, False), (of_several, True)):
        predictor = GDMLPredict(model)
        assert (predictor.periodic, predictor.lattice) == (periodic, None)
        predictor.require_cell(5 * lattice)


def test_the_native_model():
    model, alphas = make_model(random_molecules(3, 5), cyclic_group(5, 2))
    predictor = GDMLPredict(model)
    native = predictor.native
    assert native is predictor.native
    assert native.address
    predictor.set_R_d_desc(from_R(random_molecules(3, 5))[1])
    predictor.set_alphas(2 * alphas)
    np.testing.assert_allclose(predictor.native.arrays()[2], 2 * native.arrays()[2], rtol=1e-14)


# ---- copies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("form", ["mapping", "npz", "fgdml"])
def test_predictors_pickle_and_copy(tmp_path, ethanol, ethanol_task, form, energies):
    model = GDMLTrain().train({**ethanol_task, "use_E_cstr": energies})
    source = model if form == "mapping" else tmp_path / f"model.{form}"
    if form == "npz":
        save_model(source, model)
    elif form == "fgdml":
        export_flat(source, model)
    predictor = GDMLPredict(source, max_processes=1)
    R = ethanol["R"][:20].reshape(20, -1)
    expected = predictor.predict(R, return_virial=True)
    data = pickle.dumps(predictor)
    assert len(data) < len(predictor.native.image()) + 10000
    for copied in (pickle.loads(data), pickle.loads(pickle.dumps(pickle.loads(data))), copy.deepcopy(predictor)):
        for one, other in zip(copied.predict(R, return_virial=True), expected, strict=True):
            np.testing.assert_array_equal(one, other)
        assert (copied.n_threads, copied.e_unit, list(copied.z)) == (1, predictor.e_unit, list(predictor.z))


def test_a_copy_takes_other_coefficients_for_itself(ethanol, ethanol_model, ethanol_task):
    predictor = GDMLPredict(ethanol_model)
    R = ethanol["R"][:3].reshape(3, -1)
    expected = predictor.predict(R)[0]
    copied = copy.copy(predictor)
    assert copied.native is predictor.native  # no second model in memory
    assert copied.glob_id != predictor.glob_id
    jacobians = np.ones((copied.n_train, copied.n_desc, 3))
    copied.set_R_d_desc(jacobians)
    copied.set_alphas(np.zeros(27 * copied.n_train))
    assert np.ptp(copied.predict(R)[0]) == 0
    np.testing.assert_array_equal(predictor.predict(R)[0], expected)


def test_processes_predict_with_a_pickled_predictor(ethanol, ethanol_model):
    predictor = GDMLPredict(ethanol_model)
    R = ethanol["R"][:6].reshape(3, 2, -1)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(predictor.predict, R, timeout=120))
    for one, r in zip(found, R, strict=True):
        np.testing.assert_array_equal(one[0], predictor.predict(r)[0])


def test_a_periodic_predictor_pickles(shared):
    model = load_model(shared("reference/cu111_periodic_model_sgdml103.npz"))
    with np.load(shared("reference/cu111_periodic.npz")) as arrays:
        R = arrays["R_test"].reshape(len(arrays["R_test"]), -1)
    predictor = GDMLPredict(model)
    copied = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_array_equal(copied.predict(R)[0], predictor.predict(R)[0])
    stretched = 1.01 * np.asarray(model["lattice"])
    np.testing.assert_array_equal(copied.predict(R, lattice=stretched)[0], predictor.predict(R, lattice=stretched)[0])
