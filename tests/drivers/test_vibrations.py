"""Vibrations: the calculator's Hessian in ASE, the command, functions for PySCF."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from support.crystals import TRICLINIC, periodic_dataset

from fastgdml.cli import main
from fastgdml.drivers.pyscf import PySCFFunctions
from fastgdml.errors import DataError, UsageError
from fastgdml.model import save_model
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain
from fastgdml.vibrations import VibrationOptions, vibrations

ase = pytest.importorskip("ase", reason="needs ASE: pip install '.[ase]'")

from ase import Atoms, units  # noqa: E402
from ase.io import read, write  # noqa: E402
from ase.vibrations import Vibrations, VibrationsData  # noqa: E402

from fastgdml.drivers.ase import FastGDMLCalculator  # noqa: E402


@pytest.fixture(scope="module")
def found(ethanol, ethanol_model):
    return vibrations(ethanol_model, Atoms(ethanol["z"], ethanol["R"][0]))


@pytest.fixture(scope="module")
def crystal_model():
    dataset = periodic_dataset(TRICLINIC)
    train = GDMLTrain()
    return train.train(train.create_task(dataset, 60, dataset, 20, sig=10, seed=0, use_sym=False)), dataset


def test_hessian_of_the_calculator_gives_the_frequencies_of_finite_differences(found, tmp_path):
    atoms = found.atoms.copy()
    atoms.calc = FastGDMLCalculator(found.atoms.calc.predictor)
    exact = VibrationsData.from_2d(atoms, atoms.calc.get_hessian(atoms)).get_frequencies()
    by_differences = Vibrations(atoms, name=str(tmp_path / "vib"), delta=1e-3, nfree=4)
    by_differences.run()
    np.testing.assert_allclose(exact[6:], by_differences.get_frequencies()[6:], atol=0.05)
    assert np.abs(exact[:6]).max() < 5
    # Ours leave out what ASE gives as nearly 0.
    np.testing.assert_allclose(found.frequencies, exact[6:].real, atol=0.05)
    assert found.zero_point_energy == pytest.approx(0.5 * found.frequencies.sum() * units.invcm, rel=1e-12)


def test_units_of_the_hessian(ethanol, ethanol_model):
    atoms = Atoms(ethanol["z"], ethanol["R"][3])
    H = FastGDMLCalculator(ethanol_model).get_hessian(atoms)
    scaled = Atoms(ethanol["z"], ethanol["R"][3] * 1.7)
    other = FastGDMLCalculator(ethanol_model, e_unit=0.3, r_unit=1.7).get_hessian(scaled)
    kcal = units.kcal / units.mol
    np.testing.assert_allclose(other / (0.3 / 1.7**2), H / kcal, rtol=1e-7, atol=1e-7 * np.abs(H / kcal).max())
    with pytest.raises(UsageError, match="give atoms"):
        FastGDMLCalculator(ethanol_model).get_hessian()
    with pytest.raises(DataError, match="order of the training set"):
        FastGDMLCalculator(ethanol_model).get_hessian(atoms[::-1])


def test_modes_are_normal(found):
    n = len(found.atoms)
    assert found.modes.shape == (3 * n - 6, n, 3)
    assert found.n_imaginary == 0
    assert found.fmax < 1e-4
    masses = np.repeat(found.atoms.get_masses(), 3)
    modes = found.modes.reshape(len(found.modes), -1)
    overlap = (modes * masses) @ modes.T
    np.testing.assert_allclose(overlap, np.diag(np.diag(overlap)), atol=1e-9 * overlap.max())
    # H c = omega^2 M c, to what is left of the force
    omega2 = (found.frequencies * units.invcm / (units._hbar * 1e10)) ** 2 * units._e * units._amu
    residual = modes @ found.hessian - omega2[:, None] * modes * masses
    assert np.abs(residual).max() < 1e-3 * np.abs(found.hessian).max()
    assert 3000 < found.frequencies[-1] < 4200  # the O-H stretch


def test_phonons_at_gamma(crystal_model):
    model, dataset = crystal_model
    model = {**model, "e_unit": "eV", "r_unit": "Ang"}
    atoms = Atoms(dataset["z"], dataset["R"][0], cell=TRICLINIC.T, pbc=True)
    result = vibrations(model, atoms, VibrationOptions(fmax=1e-5))
    assert len(result.frequencies) == 9
    H = FastGDMLCalculator(model).get_hessian(result.atoms)
    np.testing.assert_array_equal(H, result.hessian)
    assert np.abs(H.reshape(4, 3, 4, 3).sum(axis=2)).max() < 1e-12 * np.abs(H).max() * 4
    if result.n_imaginary == 0:
        thermo = result.thermochemistry()
        assert thermo["free_energy"] == pytest.approx(
            thermo["internal_energy"] - thermo["temperature"] * thermo["entropy"], abs=1e-12
        )


def test_the_command(tmp_path, monkeypatch, capsys, ethanol, ethanol_model, found):
    monkeypatch.chdir(tmp_path)
    save_model("m.npz", ethanol_model)
    write("start.xyz", Atoms(ethanol["z"], ethanol["R"][0]))
    assert main(["vibrations", "m.npz", "start.xyz", "--json", "-o", "min.xyz", "--modes", "modes.xyz"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    np.testing.assert_allclose(result["frequencies"], found.frequencies, atol=0.1)
    thermo = result["thermochemistry"]
    gibbs = thermo["enthalpy"] - thermo["temperature"] * thermo["entropy"]
    assert thermo["free_energy"] == pytest.approx(gibbs, abs=1e-9)
    assert thermo["enthalpy"] > result["energy"] + result["zero_point_energy"]
    frames = read("modes.xyz", ":")
    assert len(frames) == 20 * 21
    assert frames[20].info["mode"] == 1
    assert frames[20].info["frequency"] == pytest.approx(result["frequencies"][1], abs=1e-6)
    np.testing.assert_allclose(np.linalg.norm(frames[5].positions - frames[0].positions, axis=1).max(), 0.3, atol=1e-6)
    np.testing.assert_allclose(read("min.xyz").positions, result["positions"], atol=1e-7)
    assert np.abs(read("min.xyz").get_forces()).max() < 1e-4

    assert main(["vibrations", "m.npz", "min.xyz", "--no_optimise", "-T", "500"]) == 0
    text = capsys.readouterr().out
    assert "500.00 K" in text
    assert "Zero-point energy" in text
    assert main(["vibrations", "m.npz", "min.xyz", "-o", "min.xyz"]) == 1
    assert "exists" in capsys.readouterr().err
    assert main(["vibrations", "m.npz", "start.xyz", "-o", "m.npz", "--overwrite"]) == 1
    assert "never replaced" in capsys.readouterr().err.replace("\n", " ")
    write("other.xyz", Atoms("H2O", np.eye(3)))
    assert main(["vibrations", "m.npz", "other.xyz"]) == 1
    assert "other.xyz" in capsys.readouterr().err
    assert main(["vibrations", "m.npz", "start.xyz", "--steps", "2"]) == 1
    assert "did not end within 2 steps" in capsys.readouterr().err
    assert main(["vibrations", "m.npz", "start.xyz", "--no_optimise", "-T", "-1"]) == 1


def test_imaginary_frequencies_are_said(tmp_path, monkeypatch, capsys, ethanol, ethanol_model):
    monkeypatch.chdir(tmp_path)
    save_model("m.npz", ethanol_model)
    predictor = GDMLPredict(ethanol_model)
    lowest = [np.linalg.eigvalsh(H)[0] for H in predictor.hessian(ethanol["R"][:40])]
    start = int(np.argmin(lowest))
    write("hot.xyz", Atoms(ethanol["z"], ethanol["R"][start]))
    assert main(["vibrations", "m.npz", "hot.xyz", "--no_optimise"]) == 0
    assert "are imaginary" in capsys.readouterr().err


def test_functions_for_pyscf(ethanol, ethanol_model):
    functions = PySCFFunctions(ethanol_model)
    r = ethanol["R"][5] / units.Bohr

    def molecule(r):
        return SimpleNamespace(atom_coords=lambda: r, atom_charges=lambda: ethanol["z"])

    E, gradient = functions.energy_and_gradient(molecule(r))
    atoms = Atoms(ethanol["z"], ethanol["R"][5], calculator=FastGDMLCalculator(ethanol_model))
    assert pytest.approx(atoms.get_potential_energy() / units.Hartree, rel=1e-6) == E
    np.testing.assert_allclose(-gradient, atoms.get_forces() * units.Bohr / units.Hartree, rtol=1e-6, atol=1e-9)
    H = functions.hessian(molecule(r))
    step = np.zeros((9, 3))
    step[2, 1] = 1e-3
    column = functions.energy_and_gradient(molecule(r + step))[1] - functions.energy_and_gradient(molecule(r - step))[1]
    np.testing.assert_allclose(H[:, 2, :, 1], column / 2e-3, rtol=0, atol=1e-5 * np.abs(H).max())
    with pytest.raises(DataError, match="in their order"):
        functions.hessian(SimpleNamespace(atom_coords=lambda: r, atom_charges=lambda: ethanol["z"][::-1]))
