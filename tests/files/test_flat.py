"""Flat model files, and the models of the C library behind GDMLPredict."""

import numpy as np
import pytest
from support.models import make_model
from support.molecules import cyclic_group, random_molecules
from support.paths import REFERENCE_CASES, shared_file

from fastgdml import _core
from fastgdml.cli import main
from fastgdml.errors import DataError, FileFormatError, UsageError
from fastgdml.evaluate import prediction_errors
from fastgdml.flat import export_flat
from fastgdml.model import load_model, save_model
from fastgdml.npz import is_flat
from fastgdml.predict import GDMLPredict


@pytest.fixture
def flat_file(tmp_path, ethanol_model):
    export_flat(tmp_path / "model.fgdml", ethanol_model)
    return tmp_path / "model.fgdml"


def assert_same_predictions(one, other, R):
    for a, b in zip(one.predict(R, return_virial=True), other.predict(R, return_virial=True), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", REFERENCE_CASES)
def test_a_flat_file_predicts_the_same_to_the_bit(case, tmp_path):
    model = load_model(shared_file(f"reference/{case}_model_sgdml103.npz"))
    with np.load(shared_file(f"reference/{case}.npz")) as arrays:
        R = arrays["R_test"].reshape(len(arrays["R_test"]), -1)
    export_flat(tmp_path / "model.fgdml", model)
    flat, direct = GDMLPredict(tmp_path / "model.fgdml"), GDMLPredict(model)
    assert_same_predictions(flat, direct, R)
    for name in ("n_atoms", "n_train", "n_perms", "sig", "std", "c", "e_unit", "r_unit"):
        assert getattr(flat, name) == getattr(direct, name)
    np.testing.assert_array_equal(flat.z, model["z"])


def test_a_name_is_enough(tmp_path, ethanol_model, flat_file, ethanol):
    save_model(tmp_path / "model.npz", ethanol_model)
    R = ethanol["R"][:3].reshape(3, -1)
    assert is_flat(flat_file)
    assert not is_flat(tmp_path / "model.npz")
    assert_same_predictions(GDMLPredict(flat_file), GDMLPredict(str(tmp_path / "model.npz")), R)
    with pytest.raises(FileFormatError, match="no such file"):
        GDMLPredict(tmp_path / "missing.fgdml")


def test_what_a_flat_file_was_made_of_comes_back():
    perms = cyclic_group(7, 3)
    model, *_ = make_model(random_molecules(60, 7), perms, energies=True)
    direct = GDMLPredict(model)
    x, v = model["R_desc"].T, model["R_d_desc_alpha"]
    images, x_back, v_back, energies = direct.native.arrays()
    np.testing.assert_array_equal(images, direct._engine.arrays.pair_images)
    np.testing.assert_allclose(x_back, x, rtol=1e-15)
    np.testing.assert_array_equal(v_back, v)
    np.testing.assert_allclose(energies, model["alphas_E"], rtol=1e-15)


def test_coefficients_of_a_flat_file_can_be_replaced(flat_file, ethanol_model, ethanol):
    from fastgdml.descriptor import from_R

    predictor = GDMLPredict(flat_file)
    R = ethanol["R"][:3].reshape(3, -1)
    before = predictor.predict(R)
    train = ethanol["R"][ethanol_model["idxs_train"]]
    predictor.set_R_d_desc(from_R(train)[1])
    predictor.set_alphas(2 * ethanol_model["alphas_F"])
    after = predictor.predict(R)
    np.testing.assert_allclose(after[1], 2 * before[1], rtol=0, atol=1e-8 * np.abs(before[1]).max())
    assert_same_predictions(GDMLPredict(flat_file), GDMLPredict(ethanol_model), R)  # the file is as it was


def test_a_model_of_several_cells_asks_for_one(tmp_path, ethanol_model, ethanol):
    cells = np.tile(9.0 * np.eye(3), (30, 1, 1))
    model = {**ethanol_model, "lattice": cells, "image_rule": "minimum"}
    export_flat(tmp_path / "model.fgdml", model)
    flat, R = GDMLPredict(tmp_path / "model.fgdml"), ethanol["R"][:2].reshape(2, -1)
    with pytest.raises(UsageError, match="say which to predict with"):
        flat.predict(R)
    np.testing.assert_array_equal(
        flat.predict(R, lattice=cells[0])[1], GDMLPredict(model).predict(R, lattice=cells[:2])[1]
    )


def test_export_on_the_command_line(tmp_path, ethanol_model, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model("model.npz", ethanol_model)
    assert main(["export", "model.npz", "model.fgdml"]) == 0
    assert is_flat("model.fgdml")
    assert main(["export", "model.npz", "model.fgdml"]) == 1
    assert "exists" in capsys.readouterr().err
    assert main(["export", "model.npz", "other.bin"]) == 1
    assert "For which program" in capsys.readouterr().err
    assert main(["export", "model.npz", "other.bin", "--format", "flat", "-o"]) == 0
    assert is_flat("other.bin")


@pytest.mark.parametrize(
    "command", [["export", "{}", "out.npz", "--format", "sgdml"], ["resume", "{}", "ethanol", "ethanol"]]
)
def test_what_needs_more_than_a_flat_file_says_so(command, flat_file, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([part.format(flat_file) for part in command]) == 1
    assert "is a flat model file" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_show_prints_what_a_flat_file_holds(flat_file, capsys):
    assert main(["show", str(flat_file)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for label, value in (
        ("Name", "ethanol"),
        ("Units", "energy kcal/mol, force kcal/mol/Ang"),
        ("Trained on", "30 points"),
        ("Symmetries", "6"),
        ("Length scale", "20"),
        ("Energies", "global integration constant"),
    ):
        assert [line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{label}:")] == [value]


@pytest.mark.parametrize("command", ["test", "validate"])
def test_a_flat_file_is_tested_like_its_model(command, flat_file, ethanol, ethanol_model, capsys):
    before = flat_file.read_bytes()
    assert main([command, str(flat_file), "ethanol"]) == 0
    captured = capsys.readouterr()
    # it knows its training points by their geometries alone
    assert "30 geometries of this dataset are training points" in captured.err
    idxs = np.setdiff1d(np.arange(2000), ethanol_model["idxs_train"])
    errors = prediction_errors(GDMLPredict(ethanol_model), ethanol, idxs, use_E=True)
    title = {"test": "Testing", "validate": "Validation"}[command]
    expected = f"{title} on 1,970 points  energy {errors.mae['energy']:.3f}/{errors.rmse['energy']:.3f}, "
    assert expected + f"forces {errors.mae['force']:.3f}/{errors.rmse['force']:.3f}" in captured.out
    assert "not recorded" in captured.out
    assert flat_file.read_bytes() == before


def test_a_flat_file_cannot_be_selected_from(flat_file, capsys):
    assert main(["select", str(flat_file)]) == 1
    assert "is one model" in capsys.readouterr().err


# ---- damaged files: more in tests/c/test_model_file.c, under sanitizers -----------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-64], r"has \d+ bytes, \d+ expected: it is truncated or damaged"),
        (lambda data: data[:100], "is no model file of fastgdml: make one with 'fastgdml export"),
        (lambda data: b"", "is empty"),
        (lambda data: b"PK\x03\x04" + data[4:], "is no model file of fastgdml"),
        (
            lambda data: data[:12] + b"\x04" + data[13:],
            "has version 4 of the format; this library reads versions 1 to 3",
        ),
        (lambda data: data[:8] + data[11:7:-1] + data[12:], "another order of bytes"),
        (lambda data: data[:-8] + b"\x01" + data[-7:], "its checksum is wrong"),
    ],
)
def test_damaged_files_are_refused(flat_file, damage, message):
    data = flat_file.read_bytes()
    flat_file.write_bytes(damage(data))
    with pytest.raises(OSError, match=message):
        _core.model_from_file(str(flat_file).encode())


def test_no_file_and_no_regular_file_are_errors(tmp_path):
    for path, message in ((tmp_path / "none.fgdml", "cannot be opened: No such file"), (tmp_path, "no regular file")):
        with pytest.raises(OSError, match=message):
            _core.model_from_file(str(path).encode())


def test_numbers_that_are_not_finite_are_refused(ethanol_model, tmp_path):
    for key in ("R_desc", "R_d_desc_alpha", "std", "c"):
        with pytest.raises(DataError, match=r"finite|is no number|must be a positive number"):
            export_flat(tmp_path / "m.fgdml", {**ethanol_model, key: np.nan * ethanol_model[key]})
    with pytest.raises(DataError, match="sig"):
        GDMLPredict({**ethanol_model, "sig": 0})
    with pytest.raises(DataError, match="too long"):
        export_flat(tmp_path / "m.fgdml", {**ethanol_model, "e_unit": "e" * 32})
    assert not list(tmp_path.iterdir())


# ---- virials ----------------------------------------------------------------------------------------------------


def derivative_by_strain(predictor, R, lattice, step):
    """Central differences of fourth order of the energy, (n_geo, 3, 3)."""
    derivative = np.zeros((len(R), 3, 3))
    for i in range(3):
        for j in range(3):
            for shift, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
                strain = np.eye(3)
                strain[i, j] += shift * step
                options = {} if lattice is None else {"lattice": strain @ lattice}
                E = predictor.predict((R.reshape(len(R), -1, 3) @ strain.T).reshape(R.shape), **options)[0]
                derivative[:, i, j] += weight * E / (12 * step)
    return derivative


@pytest.mark.parametrize("case", REFERENCE_CASES)
def test_virials_are_derivatives_by_strain(case, isa):
    model = load_model(shared_file(f"reference/{case}_model_sgdml103.npz"))
    with np.load(shared_file(f"reference/{case}.npz")) as arrays:
        R = arrays["R_test"][:4].reshape(4, -1)
    predictor = GDMLPredict(model)
    _, F, virial = predictor.predict(R, return_virial=True)
    scale = np.abs(virial).max()
    # Without the offset of some 1e5 the differences keep more digits. Coefficients of energies are huge and nearly
    # cancel: their rounding errors are in the differences, divided by the step.
    numerical = derivative_by_strain(GDMLPredict({**model, "c": 0}), R, model.get("lattice"), 5e-4)
    rounding = 3 * np.finfo(float).eps * float(model["std"]) * np.abs(model.get("alphas_E", 0)).sum() / 5e-4
    np.testing.assert_allclose(virial, -numerical, rtol=0, atol=1e-6 * scale + rounding)
    np.testing.assert_array_equal(virial, virial.transpose(0, 2, 1))
    if "lattice" not in model:  # of a molecule it is the sum over atoms
        sums = np.einsum("nai,naj->nij", R.reshape(4, -1, 3), F.reshape(4, -1, 3))
        np.testing.assert_allclose(virial, sums, rtol=0, atol=1e-11 * scale)
    np.testing.assert_array_equal(predictor.predict(R)[1], F)
    one = GDMLPredict(model, max_processes=1).predict(R[1], return_E=False, return_virial=True)
    assert len(one) == 2
    np.testing.assert_array_equal(one[1][0], virial[1])


def test_what_is_not_asked_for_changes_nothing(ethanol_model, ethanol):
    R = ethanol["R"][:50].reshape(50, -1)
    predictor = GDMLPredict(ethanol_model)
    E, F = predictor.predict(R)
    np.testing.assert_array_equal(predictor.predict(R, return_E=False)[0], F)
    alone = predictor.native.predict(R, None, True, False, False, 2)
    np.testing.assert_array_equal(alone[0], E)
    assert alone[1:] == (None, None, -1)
    with pytest.raises(UsageError, match="needs geometries"):
        predictor.predict(return_virial=True)
