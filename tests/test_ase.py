import logging
import sys

import numpy as np
import pytest
from conftest import shared_file

from fastgdml.errors import DataError, UsageError
from fastgdml.model import load_model, save_model
from fastgdml.predict import GDMLPredict

ase = pytest.importorskip("ase", reason="needs ASE: pip install '.[ase]'")

from ase import Atoms, units  # noqa: E402
from ase.calculators.calculator import PropertyNotImplementedError, all_changes  # noqa: E402
from ase.calculators.fd import calculate_numerical_forces  # noqa: E402
from ase.md.verlet import VelocityVerlet  # noqa: E402
from ase.optimize import BFGS  # noqa: E402

from fastgdml.drivers.ase import FastGDMLCalculator  # noqa: E402

KCAL = units.kcal / units.mol


@pytest.fixture
def atoms(ethanol, ethanol_model):
    """Ethanol with a calculator; its model records kcal/mol and Angstrom."""
    return Atoms(ethanol["z"], ethanol["R"][7], calculator=FastGDMLCalculator(ethanol_model))


def test_energy_and_forces_in_units_of_ase(atoms, ethanol_model):
    E, F = GDMLPredict(ethanol_model).predict(atoms.positions)
    energy = atoms.get_potential_energy()
    assert type(energy) is float
    assert energy == pytest.approx(E[0] * KCAL, rel=1e-14)
    assert atoms.get_potential_energy(force_consistent=True) == energy
    np.testing.assert_allclose(atoms.get_forces(), F.reshape(-1, 3) * KCAL, rtol=1e-14)


@pytest.mark.parametrize(
    ("e_unit", "r_unit"), [(None, None), ("eV", "Bohr"), ("kJ / mol", "Ang"), ("HARTREE", "a.u."), (0.3, 1.7)]
)
def test_forces_are_the_gradient_in_any_units(ethanol, ethanol_model, e_unit, r_unit):
    calculator = FastGDMLCalculator(ethanol_model, e_unit=e_unit, r_unit=r_unit)
    scale = {None: 1.0, "Ang": 1.0, 1.7: 1.7}.get(r_unit, units.Bohr)
    atoms = Atoms(ethanol["z"], ethanol["R"][7] * scale, calculator=calculator)
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    forces = atoms.get_forces()
    np.testing.assert_allclose(forces, numerical, rtol=0, atol=3e-6 * np.abs(forces).max())
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-9 * np.abs(forces).max())


def test_units_must_be_known(ethanol_model):
    without = {key: value for key, value in ethanol_model.items() if key != "e_unit"}
    with pytest.raises(UsageError, match=r"'e_unit' missing.*e_unit='kcal/mol'"):
        FastGDMLCalculator(without)
    FastGDMLCalculator(without, e_unit="kcal/mol")
    with pytest.raises(UsageError, match="'furlong', an unknown unit"):
        FastGDMLCalculator(ethanol_model, r_unit="furlong")
    with pytest.raises(UsageError, match="positive number"):
        FastGDMLCalculator(ethanol_model, r_unit=0.0)


def test_calculates_once_for_the_same_atoms(atoms, monkeypatch):
    calculator, calls = atoms.calc, []
    predict = calculator.predictor.predict
    monkeypatch.setattr(calculator.predictor, "predict", lambda R: calls.append(1) or predict(R))
    assert calculator.check_state(atoms) == all_changes
    for _ in range(2):
        atoms.get_potential_energy()
        atoms.get_forces()
    assert len(calls) == 1
    assert calculator.get_property("energy") == atoms.get_potential_energy()  # without atoms: the last result
    atoms.pbc, atoms.cell = False, np.eye(3)  # a model of a molecule does not depend on the cell
    assert calculator.check_state(atoms) == []
    atoms.positions[0, 0] += 1e-12
    assert calculator.check_state(atoms) == ["positions"]
    assert calculator.calculation_required(atoms, ["energy"])
    atoms.get_forces()
    assert len(calls) == 2


def test_results_are_not_those_of_atoms_changed_in_place(atoms):
    before = atoms.get_forces()
    atoms.positions += 0.1 * np.random.default_rng(0).normal(size=(9, 3))
    after = atoms.get_forces()
    assert np.abs(after - before).max() > 0.1
    atoms.get_forces()[:] = 0  # a copy
    np.testing.assert_array_equal(atoms.get_forces(), after)


def test_other_atoms_and_other_orders_are_refused(atoms, ethanol_model):
    with pytest.raises(DataError, match=r"order of the training set"):
        Atoms(atoms.numbers[::-1], atoms.positions, calculator=FastGDMLCalculator(ethanol_model)).get_forces()
    with pytest.raises(DataError, match=r"The atoms are O H H, the model was trained on C C O H H H H H H\."):
        Atoms("OH2", np.eye(3), calculator=FastGDMLCalculator(ethanol_model)).get_forces()
    atoms.get_forces()
    atoms.numbers[0] = 7  # after a good calculation
    with pytest.raises(DataError, match="no other molecule"):
        atoms.get_forces()


def test_what_is_not_there_is_an_error(atoms):
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_dipole_moment()
    with pytest.raises(UsageError, match="attach the calculator"):
        atoms.calc.get_property("energy")


def test_energy_is_conserved(atoms):
    atoms.set_momenta(np.random.default_rng(1).normal(0, 0.5, (9, 3)))
    total, kinetic = [], []
    dynamics = VelocityVerlet(atoms, 0.1 * units.fs)
    dynamics.attach(lambda: (total.append(atoms.get_total_energy()), kinetic.append(atoms.get_kinetic_energy())))
    dynamics.run(200)
    assert np.ptp(total) < 0.01 * np.ptp(kinetic)


def test_optimisation(atoms):
    before = atoms.get_potential_energy()
    assert BFGS(atoms, logfile=None).run(fmax=0.01, steps=300)
    assert atoms.get_potential_energy() < before


# ---- periodic models --------------------------------------------------------------------------------------------


@pytest.fixture
def slab():
    with np.load(shared_file("reference/cu111_periodic.npz")) as arrays:
        reference = dict(arrays)
    model = load_model(shared_file("reference/cu111_periodic_model_sgdml103.npz"))
    atoms = Atoms(reference["z"], reference["R_test"][0], cell=reference["lattice"].T, pbc=True)
    atoms.calc = FastGDMLCalculator(model)
    return atoms, reference


def test_a_periodic_model(slab):
    atoms, reference = slab
    scale = np.abs(reference["F_pred"][0]).max()
    np.testing.assert_allclose(atoms.get_forces().ravel(), reference["F_pred"][0] * KCAL, rtol=0, atol=1e-9 * scale)
    assert atoms.get_potential_energy() == pytest.approx(reference["E_pred"][0] * KCAL, abs=1e-9 * scale)
    forces = atoms.get_forces()
    atoms.positions[3] += atoms.cell[0]  # another image of an atom
    np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=1e-9)


def test_another_cell_is_refused(slab):
    atoms, _ = slab
    atoms.get_forces()
    atoms.set_cell(atoms.cell.array * 1.01)
    assert atoms.calc.check_state(atoms) == ["cell"]
    with pytest.raises(DataError, match=r"The cell of the atoms is .* the model was trained in"):
        atoms.get_forces()


def test_atoms_without_a_cell_are_in_that_of_the_model(slab):
    atoms, _ = slab
    bare = Atoms(atoms.numbers, atoms.positions, calculator=atoms.calc)
    np.testing.assert_array_equal(bare.get_forces(), atoms.get_forces())


def test_models_with_several_cells_are_refused(ethanol_model):
    with pytest.raises(DataError, match=r"lattices of shape \(30, 3, 3\)"):
        FastGDMLCalculator({**ethanol_model, "lattice": np.tile(np.eye(3) * 9, (30, 1, 1))})


def test_a_cell_around_a_molecule_is_pointed_out(atoms, caplog):
    atoms.set_cell([30, 30, 30])
    atoms.pbc = True
    atoms.get_forces()
    atoms.positions += 1.0
    atoms.get_forces()
    assert caplog.text.count("must not be wrapped") == 1


# ---- sgdml's calculator -----------------------------------------------------------------------------------------


@pytest.fixture
def sgdml_calculator():
    """The class, without leaving the stand-in for sgdml installed."""
    finders = list(sys.meta_path)
    from fastgdml.compat.sgdml.intf.ase_calc import SGDMLCalculator

    yield SGDMLCalculator
    sys.meta_path[:] = finders
    sys.modules.pop("sgdml", None)


def test_the_calculator_of_sgdml(tmp_path, atoms, ethanol_model, sgdml_calculator, caplog):
    save_model(tmp_path / "model.npz", ethanol_model)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    calculator = sgdml_calculator(str(tmp_path / "model.npz"))
    assert (calculator.E_to_eV, calculator.F_to_eV_Ang, calculator.Ang_to_R) == (KCAL, KCAL, 1.0)
    atoms.calc = calculator
    assert atoms.get_potential_energy() == energy
    np.testing.assert_array_equal(atoms.get_forces(), forces)
    assert caplog.text == ""
    # other units, as the constructor of sgdml takes them
    atoms.positions *= units.Bohr
    atoms.calc = sgdml_calculator(tmp_path / "model.npz", units.Hartree, units.Hartree / units.Bohr)
    assert atoms.get_potential_energy() == pytest.approx(energy / KCAL * units.Hartree, rel=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), forces / KCAL * units.Hartree / units.Bohr, rtol=0, atol=1e-5)
    assert "contradict the units that the model records" in caplog.text
    sgdml_calculator(tmp_path / "model.npz", use_torch=True, atoms=atoms)
    assert "PyTorch is not used" in caplog.text
    assert isinstance(atoms.calc, sgdml_calculator)


PEER = """
import sys
from ase import Atoms, units
from sgdml.intf.ase_calc import SGDMLCalculator
with np.load(sys.argv[2]) as arrays:
    atoms = Atoms(arrays["z"], arrays["R"])
out = {}
for name, options in (("kcal", {}), ("hartree", {"E_to_eV": units.Hartree, "F_to_eV_Ang": units.Hartree / units.Bohr})):
    atoms.calc = SGDMLCalculator(sys.argv[1], **options)
    out |= {"E_" + name: np.squeeze(atoms.get_potential_energy()), "F_" + name: atoms.get_forces()}
np.savez(sys.argv[3], **out)
"""


def test_equals_the_calculator_of_sgdml(tmp_path, peer, ethanol, ethanol_model, sgdml_calculator):
    np.savez(tmp_path / "atoms.npz", z=ethanol["z"], R=ethanol["R"][7])
    save_model(tmp_path / "model.npz", ethanol_model)
    peer(PEER, tmp_path / "model.npz", tmp_path / "atoms.npz", tmp_path / "out.npz")
    for name, options in (("kcal", ()), ("hartree", (units.Hartree, units.Hartree / units.Bohr))):
        atoms = Atoms(ethanol["z"], ethanol["R"][7], calculator=sgdml_calculator(tmp_path / "model.npz", *options))
        with np.load(tmp_path / "out.npz") as out:
            # the constants of two versions of ASE may differ in the last digits
            np.testing.assert_allclose(atoms.get_forces(), out[f"F_{name}"], rtol=1e-6, atol=1e-6)
            assert atoms.get_potential_energy() == pytest.approx(float(out[f"E_{name}"]), rel=1e-6)


def test_the_calculator_logs_nothing_by_itself(atoms, caplog):
    caplog.set_level(logging.DEBUG)
    atoms.get_forces()
    assert caplog.text == ""
