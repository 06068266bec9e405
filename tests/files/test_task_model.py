import numpy as np
import pytest

from fastgdml.errors import DataError, FileFormatError
from fastgdml.model import is_validated, load_model, normalize_model, save_model
from fastgdml.npz import save_npz
from fastgdml.predict import GDMLPredict
from fastgdml.task import Task, TaskArrays, load_task, save_task
from fastgdml.task_folder import final_model_file_name, model_file_name, task_dir_name, task_file_name
from fastgdml.train import GDMLTrain


def test_task_round_trip_trains_the_same_model(tmp_path, ethanol_task, ethanol_model):
    save_task(tmp_path / "task.npz", ethanol_task)
    task = load_task(tmp_path / "task.npz")
    assert task.keys() == ethanol_task.keys()
    model = GDMLTrain().train(task)
    np.testing.assert_array_equal(model["alphas_F"], ethanol_model["alphas_F"])


def test_model_round_trip_predicts_the_same(tmp_path, ethanol, ethanol_model):
    save_model(tmp_path / "model.npz", ethanol_model)
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:  # plain arrays throughout
        for key in file.files:
            file[key]
    model = load_model(tmp_path / "model.npz")
    R = ethanol["R"][:5].reshape(5, -1)
    np.testing.assert_array_equal(GDMLPredict(model).predict(R)[1], GDMLPredict(ethanol_model).predict(R)[1])


def test_models_of_sgdml_load(shared, reference):
    model = load_model(shared(f"reference/{reference['case']}_model_sgdml103.npz"))
    assert not is_validated(model)
    E, F = GDMLPredict(model).predict(reference["R_test"].reshape(len(reference["R_test"]), -1))
    np.testing.assert_allclose(F, reference["F_pred"], atol=1e-9 * np.abs(reference["F_pred"]).max())
    np.testing.assert_allclose(E, reference["E_pred"], atol=1e-9 * np.abs(reference["F_pred"]).max())


def test_models_without_atom_permutations_get_them(ethanol_model):
    model = normalize_model({k: v for k, v in ethanol_model.items() if k != "perms"})
    np.testing.assert_array_equal(model["perms"], ethanol_model["perms"])


def test_errors_in_dictionaries_become_numbers(ethanol_model):
    model = normalize_model({**ethanol_model, "f_err": {"mae": 0.5, "rmse": 0.7}, "e_err": {"mae": 0.1, "rmse": 0.2}})
    assert (model["f_err_mae"], model["f_err_rmse"], model["e_err_mae"]) == (0.5, 0.7, 0.1)
    assert "f_err" not in model
    assert is_validated(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_cprsn": True}, "compression"),
        ({"interact_cut_off": 5.0}, "cut-off"),
        ({"z": np.arange(1, 9)}, r"R_desc must be .* \(28, M\); found shape \(36, 30\)"),
        ({"R_desc": np.zeros(36)}, r"R_desc must be .* \(D, M\) = \(36, M\)"),
        ({"R_desc": np.zeros((36, 31))}, r"R_d_desc_alpha must be .* \(31, 36\)"),
        ({"alphas_E": np.zeros(29)}, "alphas_E"),
    ],
)
def test_models_that_cannot_be_used_are_refused(ethanol_model, change, message):
    with pytest.raises(DataError, match=message):
        normalize_model({**ethanol_model, **change})


def test_kinds_of_files_are_told_apart(tmp_path, ethanol_task, ethanol_model):
    save_task(tmp_path / "task.npz", ethanol_task)
    save_model(tmp_path / "model.npz", ethanol_model)
    with pytest.raises(FileFormatError, match="is a model; a task is needed"):
        load_task(tmp_path / "model.npz")
    with pytest.raises(FileFormatError, match="is a task; a model is needed"):
        load_model(tmp_path / "task.npz")
    save_npz(tmp_path / "none.npz", {"x": 1})
    with pytest.raises(FileFormatError, match="no known type"):
        load_model(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R_train": np.zeros((30, 8, 3))}, r"R_train must be .* \(M, 9, 3\)"),
        ({"F_train": np.full((30, 9, 3), np.nan)}, "not finite"),
        ({"E_train": np.zeros(29)}, "one energy"),
        ({"use_E": False, "use_E_cstr": True}, "use_E_cstr needs energies"),
        ({"perms": np.arange(8)[None]}, r"perms must be .* \(P, 9\)"),
        ({"sig": 0}, "sig must be a positive number"),
        ({"alphas0_F": np.zeros(809)}, r"alphas0_F must be .* \(810,\); found shape \(809,\)"),
        ({"alphas0_F": np.full(810, np.nan)}, r"alphas0_F .* not finite \(the first at \[0\]\)"),
        ({"alphas0_F": np.array(["a"] * 810)}, "alphas0_F .* found <U1"),
        ({"alphas0_E": np.zeros(29)}, r"alphas0_E must be .* \(30,\)"),
        ({"inducing_pts_idxs": np.array([], dtype=int)}, "columns, 0 to 809"),
        ({"inducing_pts_idxs": np.array([-1, 5])}, "numbers of columns .* found numbers from -1 to 5"),
        ({"inducing_pts_idxs": np.array([5, 810])}, "columns, 0 to 809"),
        ({"inducing_pts_idxs": np.array([0.5])}, "inducing_pts_idxs must be numbers of columns"),
    ],
)
def test_broken_tasks_are_refused(tmp_path, ethanol_task, change, message):
    save_npz(tmp_path / "task.npz", {**ethanol_task, **change})
    with pytest.raises(DataError, match=message):
        load_task(tmp_path / "task.npz")


def test_incomplete_tasks_are_refused(tmp_path, ethanol_task):
    save_npz(tmp_path / "task.npz", {k: v for k, v in ethanol_task.items() if k not in ("sig", "perms")})
    with pytest.raises(DataError, match="lacks sig, perms"):
        load_task(tmp_path / "task.npz")


def test_file_names_are_those_of_sgdml(ethanol_task, ethanol_model):
    dataset = {"name": "ethanol", "theory": np.array("PBE+vdW-TS/def2 (tight)")}
    assert task_dir_name(dataset, 200, True, True, False) == "sgdml_cv_ethanol-PBE.vdW-TS.def2.tight.-train200-sym"
    assert task_dir_name(dataset, 5, False, False, True).endswith("-train5-noE-Ecstr")
    assert task_file_name(ethanol_task) == "task-train30-sym6-sig0020.npz"
    assert model_file_name(ethanol_task) == "model-train30-sym6-sig0020.npz"
    assert final_model_file_name(ethanol_model) == "ethanol-gfn2-xtb-train30-sym6.npz"


def test_all_keys_of_tasks_are_listed(ethanol):
    train = GDMLTrain()
    for options in ({"seed": 1, "use_E_cstr": True}, {"use_E": False}):
        task = train.create_task(ethanol, 12, ethanol, 5, sig=20, **options)
        assert set(task) <= set(Task.__annotations__)
        model = train.train(task, solver="cg", max_iter=2)
        assert set(train.create_task_from_model(model, ethanol)) <= set(Task.__annotations__)


def test_tasks_are_read_once_as_arrays_of_one_type(tmp_path, ethanol):
    task = GDMLTrain().create_task(ethanol, 12, ethanol, 5, sig=20, seed=1)
    save_task(tmp_path / "task.npz", task)
    for entries in (task, load_task(tmp_path / "task.npz")):
        arrays = TaskArrays.of(entries)
        np.testing.assert_array_equal(arrays.R, task["R_train"])
        assert (arrays.R.dtype, arrays.E.shape, arrays.perms.ndim) == (np.float64, (12,), 2)
        assert [type(value) for value in (arrays.sig, arrays.lam, arrays.constrain_E)] == [float, float, bool]
        assert (arrays.cell, arrays.start, arrays.columns) == (None, None, None)
        assert arrays.fits_constant
    assert TaskArrays.of({**task, "use_E": np.bool_(False)}).E is None
    resumed = TaskArrays.of({**task, "alphas0_F": np.ones(324), "alphas0_E": np.ones(12), "solver_iters": np.array(7)})
    assert resumed.start[2] == 7
    # Coefficients of energies that are not constrained now are not used.
    earlier = {**task, "alphas0_F": np.zeros(324), "alphas0_E": np.ones(12)}
    assert GDMLTrain().train(earlier, solver="cg", max_iter=1)["solver_iters"] == 1
