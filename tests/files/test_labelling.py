"""Predictions and labels for frames of any source: numbers as of `GDMLPredict`, errors, checks, resuming."""

import json
import os
import subprocess
import sys

import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from support.models import make_samples

from fastgdml.cli import main
from fastgdml.convert import convert
from fastgdml.dataset import load_dataset
from fastgdml.errors import DataError, UsageError
from fastgdml.evaluate import prediction_errors
from fastgdml.flat import export_flat
from fastgdml.formats import ReadOptions
from fastgdml.labelling import PredictOptions, label_by_calculator, label_by_model, predict
from fastgdml.model import save_model
from fastgdml.predict import GDMLPredict
from fastgdml.reading import UnitOptions
from fastgdml.train import GDMLTrain
from fastgdml.writing import WriteOptions

EV = 0.043364104241800934  # kcal/mol in eV


@pytest.fixture
def here(tmp_path, monkeypatch, ethanol, ethanol_model):
    """A folder with a model of ethanol and 50 labelled geometries, in kcal/mol and Angstrom."""
    monkeypatch.chdir(tmp_path)
    save_model("m.npz", ethanol_model)
    convert(["ethanol"], "all.npz")
    data = {key: ethanol[key][:50] for key in "REF"}
    np.savez("x.npz", z=ethanol["z"], e_unit=ethanol["e_unit"], r_unit=ethanol["r_unit"], **data)
    return tmp_path


@pytest.fixture(scope="session")
def copper(shared):
    """A periodic model, and its dataset."""
    data = load_dataset(shared("data/emt_cu111.npz"))
    train = GDMLTrain()
    return train.train(train.create_task(data, 30, data, 30, sig=20, seed=1)), data


def test_predictions_are_those_of_the_predictor(here, ethanol, ethanol_model):
    predict("m.npz", ["x.npz"], "p.npz")
    p = load_dataset("p.npz")
    E, F = GDMLPredict(ethanol_model).predict(ethanol["R"][:50].reshape(50, -1))
    np.testing.assert_array_equal(p["E"], E)
    np.testing.assert_array_equal(p["F"].reshape(50, -1), F)
    np.testing.assert_array_equal(p["R"], ethanol["R"][:50])
    assert str(p["e_unit"]) == str(ethanol["e_unit"])
    export_flat("m.fgdml", ethanol_model)
    predict("m.fgdml", ["x.npz"], "flat.npz")
    np.testing.assert_array_equal(load_dataset("flat.npz")["F"], p["F"])


def test_errors_against_labels(here, ethanol, ethanol_model):
    result = predict("m.npz", ["all.npz"], "p.xyz")
    expected = prediction_errors(GDMLPredict(ethanol_model), ethanol, np.arange(len(ethanol["R"])), True)
    for name in ("energy", "force", "magnitude", "angle"):
        assert result.errors.mae[name] == pytest.approx(expected.mae[name], rel=1e-12)
        assert result.errors.rmse[name] == pytest.approx(expected.rmse[name], rel=1e-12)
    shifted = dict(np.load("x.npz"))
    shifted["E"] += 1000
    np.savez("shifted.npz", **shifted)
    offset = predict("m.npz", ["x.npz"], "a.xyz").errors.mean["energy"]
    assert predict("m.npz", ["shifted.npz"], "b.xyz").errors.mean["energy"] == pytest.approx(offset - 1000)
    none = predict("m.npz", ["x.npz"], "c.xyz", read=ReadOptions(use_E=False, use_F=False))
    assert none.errors.mae == {}
    assert none.errors.mean == {}


def test_input_in_other_units(here):
    """The same geometries in eV and Bohr give the same predictions; errors are in the units of the results."""
    convert(["x.npz"], "x.xyz", units=UnitOptions(to_e_unit="eV", to_r_unit="Bohr"))
    one = predict("m.npz", ["x.npz"], "a.npz")
    other = predict("m.npz", ["x.xyz"], "b.npz")
    np.testing.assert_allclose(load_dataset("b.npz")["F"], load_dataset("a.npz")["F"], rtol=1e-8, atol=1e-7)
    assert other.errors.mae["force"] == pytest.approx(one.errors.mae["force"], rel=1e-9)
    ev = predict("m.npz", ["x.npz"], "c.npz", units=UnitOptions(to_e_unit="eV"))
    np.testing.assert_allclose(load_dataset("c.npz")["E"], load_dataset("a.npz")["E"] * EV, rtol=1e-12)
    assert ev.errors.rmse["energy"] == pytest.approx(one.errors.rmse["energy"] * EV, rel=1e-9)
    predict("m.npz", ["x.npz"], "d.traj")
    atoms = ase.io.read("d.traj", index=3)
    np.testing.assert_allclose(atoms.get_forces(), load_dataset("a.npz")["F"][3] * EV, rtol=1e-12)
    np.testing.assert_allclose(atoms.positions, load_dataset("x.npz")["R"][3], rtol=1e-14)


def test_units_that_nobody_records(here, ethanol_model, caplog):
    bare = {key: value for key, value in np.load("x.npz").items() if "unit" not in key}
    np.savez("bare.npz", **bare)
    predict("m.npz", ["bare.npz"], "a.npz")
    assert "taken to be kcal/mol and Ang" in caplog.text
    anonymous = {key: value for key, value in ethanol_model.items() if "unit" not in key}
    predict(anonymous, ["bare.npz"], "b.npz")
    np.testing.assert_array_equal(load_dataset("a.npz")["F"], load_dataset("b.npz")["F"])
    assert "e_unit" not in load_dataset("b.npz")
    with pytest.raises(UsageError, match=r"does not record its units.*leave out --to"):
        predict(anonymous, ["bare.npz"], "c.npz", units=UnitOptions(to_e_unit="eV"))
    with pytest.raises(UsageError, match=r"write \.xyz or \.npz"):
        predict(anonymous, ["bare.npz"], "c.traj")


def test_virials(here, ethanol_model, ethanol):
    predict("m.npz", ["x.npz"], "p.npz", PredictOptions(virial=True))
    _, _, virial = GDMLPredict(ethanol_model).predict(ethanol["R"][:50].reshape(50, -1), return_virial=True)
    with np.load("p.npz") as arrays:
        np.testing.assert_array_equal(arrays["virial"], virial)
    predict("m.npz", ["x.npz"], "p.xyz", PredictOptions(virial=True))
    np.testing.assert_array_equal(ase.io.read("p.xyz", index=7).info["virial"], virial[7])


def test_standard_deviations(here, ethanol_model, ethanol, capsys):
    model = ethanol_model | make_samples(ethanol_model, 3)
    save_model("s.npz", model)
    R = ethanol["R"][:50].reshape(50, -1)
    _, _, E_std, F_std = GDMLPredict(model).predict(R, return_std=True)
    assert main(["predict", "s.npz", "x.npz", "-o", "p.npz", "--std", "--virial", "--json"]) == 0
    std = json.loads(capsys.readouterr().out)["std"]
    assert std["largest"] == F_std.max()
    assert std["force"] == pytest.approx(np.sqrt((F_std**2).mean()), rel=1e-12)
    assert std["energy"] == pytest.approx(np.sqrt((E_std**2).mean()), rel=1e-12)
    with np.load("p.npz") as arrays:
        np.testing.assert_array_equal(arrays["E_std"], E_std)
        np.testing.assert_array_equal(arrays["F_std"], F_std)
        assert arrays["virial"].shape == (50, 3, 3)
    assert main(["predict", "s.npz", "x.npz", "-o", "p.xyz", "--std", "--to", "eV"]) == 0
    assert "Standard deviations" in capsys.readouterr().out
    for frames in ("p.xyz", "p.traj"):
        if frames == "p.traj":
            assert main(["predict", "s.npz", "x.npz", "-o", "p.traj", "--std"]) == 0
        atoms = ase.io.read(frames, index=7)
        assert atoms.info["energy_std"] == pytest.approx(E_std[7] * EV, rel=1e-12)
        force_std = (atoms.info if frames == "p.traj" else atoms.arrays)["force_std"]
        np.testing.assert_allclose(force_std, F_std[7] * EV, rtol=1e-12)
    convert(["p.xyz"], "again.npz")
    assert set(load_dataset("again.npz")) == set(load_dataset("p.npz")) - {"E_std", "F_std", "virial"}
    with pytest.raises(UsageError, match="no samples for standard deviations"):
        predict("m.npz", ["x.npz"], "q.npz", PredictOptions(std=True))


def test_wrong_frames_are_told_by_number(here, ethanol):
    R, z = ethanol["R"][:50].copy(), ethanol["z"]
    swapped = z[[2, 1, 0, *range(3, 9)]]
    text = []
    for i, r in enumerate(R):
        symbols = swapped if i == 13 else z
        text += ["9", ""] + [f"{n} {a} {b} {c}" for n, (a, b, c) in zip(symbols, r, strict=True)]
    with open("x.xyz", "w") as file:
        file.write("\n".join(text))
    with pytest.raises(
        DataError, match=r"x\.xyz, frame 13 .*another order.*first difference: atom 0.*as the model has"
    ):
        predict("m.npz", ["x.xyz"], "p.xyz")
    R[21, 4] = R[21, 5]
    np.savez("y.npz", z=z, R=R)
    with pytest.raises(DataError, match=r"y\.npz, frame 21 .*at the same place"):
        predict("m.npz", ["y.npz"], "p.npz")
    np.savez("w.npz", z=[8, 1, 1], R=R[:, :3])
    with pytest.raises(DataError, match=r"frame 0 .*it is H2O.* instead of C2H6O"):
        predict("m.npz", ["w.npz"], "p.npz")
    assert not [name for name in os.listdir() if name.startswith("p.") or name.endswith(".tmp")]


def test_cells_are_checked(here, copper, ethanol):
    model, data = copper
    R, lattice, z = data["R"][:20], data["lattice"], data["z"]
    np.savez("own.npz", z=z, R=R, lattice=lattice, e_unit="eV", r_unit="Ang")
    np.savez("none.npz", z=z, R=R, e_unit="eV", r_unit="Ang")
    cells = np.tile(lattice, (20, 1, 1))
    cells[11] *= 1.01
    np.savez("other.npz", z=z, R=R, lattice=cells, e_unit="eV", r_unit="Ang")
    predict(model, ["own.npz"], "a.npz")
    predict(model, ["none.npz"], "b.npz")
    E, F = GDMLPredict(model).predict(R.reshape(20, -1))
    for name in ("a.npz", "b.npz"):
        np.testing.assert_array_equal(load_dataset(name)["F"].reshape(20, -1), F)
        np.testing.assert_array_equal(load_dataset(name)["E"], E)
    with pytest.raises(DataError, match=r"other\.npz, frame 11 .*not the cell that .*--any_cell"):
        predict(model, ["other.npz"], "c.npz")
    predict(model, ["other.npz"], "c.npz", PredictOptions(any_cell=True))
    np.testing.assert_array_equal(load_dataset("c.npz")["F"][:11], load_dataset("a.npz")["F"][:11])
    _, F_other = GDMLPredict(model).predict(R[11].reshape(1, -1), lattice=cells[11])
    np.testing.assert_array_equal(load_dataset("c.npz")["F"][11].ravel(), F_other[0])
    np.savez("boxed.npz", z=ethanol["z"], R=ethanol["R"][:5], lattice=50 * np.eye(3))
    with pytest.raises(DataError, match=r"it has a cell, but the model is one of a molecule.*--no_cell"):
        predict("m.npz", ["boxed.npz"], "d.npz")
    predict("m.npz", ["boxed.npz"], "d.npz", read=ReadOptions(cell=False))


def test_labels_by_a_model(here, ethanol):
    report = label_by_model(["x.npz"], "l.npz", "m.npz")
    predict("m.npz", ["x.npz"], "p.npz")
    labelled, predicted = load_dataset("l.npz"), load_dataset("p.npz")
    np.testing.assert_array_equal(labelled["F"], predicted["F"])
    assert str(labelled["theory"]) == str(ethanol["theory"])
    assert report.files[0].n_frames == 50


def test_labels_by_a_calculator(here, copper):
    """EMT gives again the labels that it gave the dataset; they can be converted."""
    _, data = copper
    np.savez("cu.npz", z=data["z"], R=data["R"][:30], lattice=data["lattice"], r_unit="Ang")
    label_by_calculator(["cu.npz"], "l.npz", "ase.calculators.emt:EMT")
    labelled = load_dataset("l.npz")
    np.testing.assert_allclose(labelled["E"], data["E"][:30], rtol=0, atol=1e-10)
    np.testing.assert_allclose(labelled["F"], data["F"][:30], rtol=0, atol=1e-10)
    assert (str(labelled["e_unit"]), str(labelled["theory"])) == ("eV", "ase.calculators.emt:EMT")
    np.savez("kcal.npz", z=data["z"], R=data["R"][:30], lattice=data["lattice"], r_unit="Ang", e_unit="kcal/mol")
    label_by_calculator(["kcal.npz"], "j.npz", EMT)
    np.testing.assert_array_equal(load_dataset("j.npz")["F"], labelled["F"])
    np.savez("bare.npz", z=data["z"], R=data["R"][:30], lattice=data["lattice"])
    with pytest.raises(UsageError, match="does not record its unit of length"):
        label_by_calculator(["bare.npz"], "i.npz", EMT)
    label_by_calculator(["cu.npz"], "k.npz", EMT, units=UnitOptions(to_e_unit="kcal/mol"))
    np.testing.assert_allclose(load_dataset("k.npz")["F"] * EV, labelled["F"], rtol=1e-10, atol=1e-12)
    for place, message in (
        ("nothing", "module:name"),
        ("no.such.module:f", "cannot be imported"),
        ("ase.calculators.emt:NONE", "cannot be imported"),
        ("math:pi", "no function or class"),
        ("math:sin", "made no calculator"),
    ):
        with pytest.raises(UsageError, match=message):
            label_by_calculator(["cu.npz"], "z.npz", place)


def test_a_calculation_that_fails_is_finished_later(here, copper):
    _, data = copper
    with open("once.py", "w") as file:
        file.write(
            "import os\nfrom ase.calculators.emt import EMT\n"
            "class Once(EMT):\n    n = 0\n"
            "    def calculate(self, *args, **kwargs):\n        Once.n += 1\n"
            "        if os.path.exists('fail') and Once.n > 300:\n            raise RuntimeError('SCF not converged')\n"
            "        super().calculate(*args, **kwargs)\n"
        )
    np.savez("cu.npz", z=data["z"], R=np.tile(data["R"][:100], (4, 1, 1)), lattice=data["lattice"], r_unit="Ang")
    open("fail", "w").close()
    code = "import sys; from fastgdml.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "dataset", "label", "cu.npz", "--calculator", "once:Once", "-o", "l.npz"]
    # small chunks, so that something is done before it fails
    code_small = "import fastgdml.formats.frames as f; f._CHUNK_FRAMES = 50; " + code
    command[2] = code_small
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "frame 300 (the first is 0): once:Once failed (RuntimeError: SCF not converged)" in done.stderr
    assert "--resume goes on" in done.stderr
    assert os.path.isdir("l.npz.part")
    assert not os.path.exists("l.npz")
    os.remove("fail")
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True)
    labelled = load_dataset("l.npz")
    np.testing.assert_allclose(labelled["F"], np.tile(data["F"][:100], (4, 1, 1)), atol=1e-10)
    assert not os.path.exists("l.npz.part")


def test_command(here, capsys):
    assert main(["predict", "m.npz", "x.npz", "-o", "p.xyz", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["files"][0]["n_frames"] == 50
    assert set(result["mae"]) == {"energy", "force", "magnitude", "angle"}
    assert main(["predict", "m.npz", "x.npz", "-o", "p.npz"]) == 0
    assert "Errors against the labels" in capsys.readouterr().out
    assert main(["predict", "m.npz", "x.npz", "-o", "p.npz"]) == 1
    assert "exists" in capsys.readouterr().err
    assert main(["predict", "x.npz", "x.npz", "-o", "q.npz"]) == 1
    assert main(["predict", "m.npz", "x.npz", "-o", "m.npz", "--overwrite"]) == 1
    assert "is a model" in capsys.readouterr().err
    assert main(["predict", "m.npz", "x.npz", "-o", "q.npz", "--quiet", "--no_labels", "--virial"]) == 0
    assert capsys.readouterr().out == ""


def test_pipes(here):
    convert(["x.npz"], "x.xyz")
    predict("m.npz", ["x.xyz"], "p.xyz", write=WriteOptions(name="x"))
    code = "import sys; from fastgdml.cli import main; sys.exit(main(sys.argv[1:]))"
    with open("x.xyz", "rb") as file:
        command = [sys.executable, "-c", code, "predict", "m.npz", "-", "-o", "-", "--json"]
        done = subprocess.run(command, stdin=file, capture_output=True, check=True)
    with open("p.xyz", "rb") as file:
        assert done.stdout == file.read()
    assert json.loads(done.stderr)["files"][0]["n_frames"] == 50
