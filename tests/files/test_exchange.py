"""Models and tasks that go to sgdml 1.0.3 and come back."""

import pickletools
import zipfile

import numpy as np
import pytest
from support.models import make_samples

from fastgdml.cli import main
from fastgdml.errors import DataError
from fastgdml.exchange import export_sgdml, to_sgdml
from fastgdml.model import load_model, save_model
from fastgdml.npz import load_npz
from fastgdml.predict import GDMLPredict
from fastgdml.task import load_task, save_task
from fastgdml.train import GDMLTrain


def read_as_sgdml_does(path):
    with np.load(path, allow_pickle=True) as file:
        return dict(file)


def test_a_model_of_sgdml_comes_out_as_it_was(tmp_path, shared, reference):
    source = shared(f"reference/{reference['case']}_model_sgdml103.npz")
    original = read_as_sgdml_does(source)
    export_sgdml(tmp_path / "out.npz", load_model(source))
    exported = read_as_sgdml_does(tmp_path / "out.npz")
    assert exported.keys() == original.keys()
    assert exported.pop("md5_test") == b""
    del original["md5_test"]  # None in sgdml's files: a pickle less
    for key, value in original.items():
        assert exported[key].dtype == value.dtype, key
        if value.dtype == object:
            np.testing.assert_equal(exported[key].item(), value.item())
        else:
            np.testing.assert_array_equal(exported[key], value)


def test_a_model_of_fastgdml_has_the_same_structure(tmp_path, shared, ethanol_model):
    original = read_as_sgdml_does(shared("reference/ethanol_sgdml_model_sgdml103.npz"))
    export_sgdml(tmp_path / "out.npz", ethanol_model)
    exported = read_as_sgdml_does(tmp_path / "out.npz")
    assert exported.keys() - {"seed"} == original.keys()
    for key in original.keys() - {"md5_test"}:
        assert exported[key].dtype.kind == original[key].dtype.kind, key
        assert exported[key].ndim == original[key].ndim, key


def test_round_trip(tmp_path, ethanol_model):
    model = {**ethanol_model, "f_err_mae": 0.5, "f_err_rmse": 0.75, "e_err_mae": 0.1, "e_err_rmse": 0.2}
    export_sgdml(tmp_path / "out.npz", model)
    loaded = load_model(tmp_path / "out.npz")
    assert loaded.keys() == model.keys() - {"schema", "solver_reason", "label_noise"}
    for key, value in loaded.items():
        np.testing.assert_array_equal(value, model[key])
    assert to_sgdml(to_sgdml(model)).keys() == to_sgdml(model).keys()


def test_only_the_errors_are_pickled_and_any_numpy_can_read_them(tmp_path, ethanol_model):
    export_sgdml(tmp_path / "out.npz", ethanol_model)
    pickles = []
    with zipfile.ZipFile(tmp_path / "out.npz") as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                np.lib.format.read_magic(file)
                if np.lib.format.read_array_header_1_0(file)[2].hasobject:
                    pickles.append(name)
                    found = {arg for op, arg, _ in pickletools.genops(file.read()) if op.name == "GLOBAL"}
                    # the names of NumPy 1; NumPy 2 keeps them for such files
                    assert found <= {
                        "numpy.core.multiarray _reconstruct",
                        "numpy ndarray",
                        "numpy dtype",
                        "_codecs encode",
                    }
    assert sorted(pickles) == ["e_err.npy", "f_err.npy"]


def test_numpy_predictions_need_no_pickle(tmp_path, ethanol_model):
    export_sgdml(tmp_path / "out.npz", ethanol_model)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        GDMLPredict(file)
        assert str(file["type"]) == "m"
        with pytest.raises(ValueError, match="allow_pickle"):
            file["f_err"]


def test_legacy_models_can_be_exported(tmp_path, shared):
    model = load_model(shared("data/legacy_model_1h2o_sgdml049.npz"))
    export_sgdml(tmp_path / "out.npz", model)
    assert read_as_sgdml_does(tmp_path / "out.npz")["f_err"].item()["mae"] == pytest.approx(0.0104603, abs=1e-6)


def test_sigma_that_sgdml_would_round_is_pointed_out(tmp_path, ethanol_model, caplog):
    export_sgdml(tmp_path / "out.npz", {**ethanol_model, "sig": 12.5})
    assert "PyTorch mode rounds sigma down" in caplog.text
    assert read_as_sgdml_does(tmp_path / "out.npz")["sig"] == 12.5


@pytest.mark.parametrize(
    ("angle", "rule", "refused"), [(0, "minimum", False), (1, "minimum", True), (1, "rounding", False)]
)
def test_minimum_images_of_skewed_cells_are_refused(tmp_path, ethanol_model, angle, rule, refused):
    lattice = np.diag([9.0, 10.0, 11.0])
    lattice[0, 1] = angle
    model = {**ethanol_model, "lattice": lattice, "image_rule": rule}
    if refused:
        with pytest.raises(DataError, match=r"'minimum'.*skewed cell"):
            export_sgdml(tmp_path / "out.npz", model)
        assert list(tmp_path.iterdir()) == []
    else:
        export_sgdml(tmp_path / "out.npz", model)
        assert "image_rule" not in read_as_sgdml_does(tmp_path / "out.npz")


def test_a_cell_for_each_point_is_refused(tmp_path, ethanol_model):
    with pytest.raises(DataError, match=r"lattices of shape \(30, 3, 3\)"):
        export_sgdml(tmp_path / "out.npz", {**ethanol_model, "lattice": np.tile(np.eye(3) * 9, (30, 1, 1))})


def test_command(tmp_path, monkeypatch, capsys, ethanol_model):
    monkeypatch.chdir(tmp_path)
    save_model("model.npz", ethanol_model)
    assert main(["export", "model.npz", "out.npz", "--format", "sgdml"]) == 0
    assert "f_err" in read_as_sgdml_does("out.npz")
    assert main(["export", "model.npz", "out.npz", "--format", "sgdml"]) == 1
    assert "'out.npz' exists" in capsys.readouterr().err
    assert main(["export", "model.npz", "out.npz", "--format", "sgdml", "-o"]) == 0
    assert main(["export", "missing.npz", "other.npz", "--format", "sgdml"]) == 1


# ---- with sgdml itself ------------------------------------------------------------------------------------------

PREDICT = """
import sys
from sgdml.predict import GDMLPredict
with np.load(sys.argv[1]) as file, np.load(sys.argv[2]) as arrays:
    E, F = GDMLPredict(file, max_processes=1).predict(arrays["R"])
    whole = dict(np.load(sys.argv[1], allow_pickle=True))  # its PyTorch mode copies every entry
    E32, F32 = GDMLPredict(whole, use_torch=True).predict(arrays["R"])
np.savez(sys.argv[3], E=E, F=F, E32=E32, F32=F32)
"""

TRAIN = """
import sys
from sgdml.train import GDMLTrain
with np.load(sys.argv[1], allow_pickle=True) as task:
    model = GDMLTrain(max_processes=1).train(dict(task))
np.savez(sys.argv[2], **model)
"""

CREATE = """
import sys
from sgdml.train import GDMLTrain
with np.load(sys.argv[1]) as dataset:
    np.random.seed(4)
    task = GDMLTrain(max_processes=1).create_task(dict(dataset), 20, dict(dataset), 20, sig=15)
np.savez(sys.argv[2], **task)
"""

CLI = """
import sys
import sgdml.cli
sgdml.cli._check_update = lambda: (False, "")
sgdml.cli._print_billboard = lambda: None
sgdml.cli.main()
"""


def test_sgdml_predicts_the_same(tmp_path, peer, ethanol, ethanol_model):
    R = ethanol["R"][:8].reshape(8, -1)
    np.savez(tmp_path / "R.npz", R=R)
    export_sgdml(tmp_path / "model.npz", ethanol_model)
    peer(PREDICT, tmp_path / "model.npz", tmp_path / "R.npz", tmp_path / "out.npz")
    found = load_npz(tmp_path / "out.npz")
    E, F = GDMLPredict(ethanol_model).predict(R)
    np.testing.assert_allclose(found["F"], F, rtol=0, atol=1e-9 * np.abs(F).max())
    np.testing.assert_allclose(found["E"], E, rtol=0, atol=1e-9 * np.abs(F).max())
    # its PyTorch mode works on positions in single precision
    np.testing.assert_allclose(found["F32"], F, rtol=0, atol=1e-4 * np.abs(F).max())


def test_commands_of_sgdml_take_the_model(tmp_path, peer, ethanol, ethanol_model):
    export_sgdml(tmp_path / "model.npz", ethanol_model)
    dataset = tmp_path / "ethanol.npz"
    np.savez(dataset, **ethanol)
    assert "Length scale:    20" in peer(CLI, "show", "model.npz", cwd=tmp_path)
    assert "Validation errors" in peer(CLI, "validate", "--cpu", "-p", "1", "model.npz", dataset, cwd=tmp_path)
    assert "Test errors" in peer(CLI, "test", "--cpu", "-p", "1", "model.npz", dataset, "25", cwd=tmp_path)
    tested = load_model(tmp_path / "model.npz")  # now written by sgdml
    assert int(tested["n_test"]) == 25
    assert 0 < float(tested["f_err_mae"]) < float(tested["f_err_rmse"])
    assert "already converged" in peer(
        CLI, "resume", "--cpu", "-p", "1", "model.npz", dataset, dataset, cwd=tmp_path, fails=True
    )


def test_sgdml_trains_our_task(tmp_path, peer, ethanol, ethanol_task, ethanol_model):
    save_task(tmp_path / "task.npz", ethanol_task)
    peer(TRAIN, tmp_path / "task.npz", tmp_path / "model.npz")
    compare_forces(ethanol, load_model(tmp_path / "model.npz"), ethanol_model)


def test_we_train_the_task_of_sgdml(tmp_path, peer, ethanol):
    np.savez(tmp_path / "ethanol.npz", **ethanol)
    peer(CREATE, tmp_path / "ethanol.npz", tmp_path / "task.npz")
    peer(TRAIN, tmp_path / "task.npz", tmp_path / "model.npz")
    ours = GDMLTrain().train(load_task(tmp_path / "task.npz"))
    compare_forces(ethanol, load_model(tmp_path / "model.npz"), ours)


def compare_forces(dataset, theirs, ours):
    R = dataset["R"][-20:].reshape(20, -1)
    (E, F), (E_ref, F_ref) = GDMLPredict(ours).predict(R), GDMLPredict(theirs).predict(R)
    # two ways to solve equations of condition 1e10
    np.testing.assert_allclose(F, F_ref, rtol=0, atol=1e-5 * np.abs(F_ref).max())
    np.testing.assert_allclose(E, E_ref, rtol=0, atol=1e-5 * np.abs(F_ref).max())


def test_samples_for_standard_deviations_are_left_out(ethanol_model, caplog):
    model = ethanol_model | make_samples(ethanol_model, 2) | {"loo_f": np.zeros((30, 9, 3))}
    plain = to_sgdml(ethanol_model)
    assert not caplog.records
    entries = to_sgdml(model)
    assert set(entries) == set(plain)
    (record,) = caplog.records
    assert "no standard deviations" in record.getMessage()
    assert "std_c" in model
