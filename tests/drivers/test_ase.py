import copy
import logging
import pickle
import subprocess
import sys
import uuid

import numpy as np
import pytest
from support.crystals import TRICLINIC, periodic_dataset, varying_lattices
from support.models import make_samples
from support.paths import shared_file

from fastgdml.errors import DataError, UsageError
from fastgdml.flat import export_flat
from fastgdml.model import load_model, save_model
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain

ase = pytest.importorskip("ase", reason="needs ASE: pip install '.[ase]'")

from ase import Atoms, units  # noqa: E402
from ase.calculators.calculator import PropertyNotImplementedError, all_changes  # noqa: E402
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress  # noqa: E402
from ase.calculators.socketio import SocketIOCalculator  # noqa: E402
from ase.filters import FrechetCellFilter  # noqa: E402
from ase.io import write  # noqa: E402
from ase.md.verlet import VelocityVerlet  # noqa: E402
from ase.optimize import BFGS  # noqa: E402
from ase.vibrations import Vibrations  # noqa: E402

from fastgdml.drivers import ase as drivers_ase  # noqa: E402
from fastgdml.drivers.ase import FastGDMLCalculator, SGDMLCalculator  # noqa: E402

# Constants of the SI and CODATA 2018. ASE's are older: CODATA 2014, a part in 1e8 apart.
KCAL = 4184 / (6.02214076e23 * 1.602176634e-19)
ASE_KCAL = units.kcal / units.mol


@pytest.fixture
def atoms(ethanol, ethanol_model):
    """Ethanol with a calculator; its model records kcal/mol and Angstrom."""
    return Atoms(ethanol["z"], ethanol["R"][7], calculator=FastGDMLCalculator(ethanol_model))


def test_energy_and_forces_in_units_of_ase(atoms, ethanol_model):
    E, F = GDMLPredict(ethanol_model).predict(atoms.positions)
    energy = atoms.get_potential_energy()
    assert pytest.approx(ASE_KCAL, rel=1e-8) == KCAL
    assert type(energy) is float
    assert energy == pytest.approx(E[0] * KCAL, rel=1e-14)
    assert atoms.get_potential_energy(force_consistent=True) == energy
    np.testing.assert_allclose(atoms.get_forces(), F.reshape(-1, 3) * KCAL, rtol=1e-14)


@pytest.mark.parametrize("periodic", [False, True])
def test_standard_deviations(atoms, ethanol_model, periodic):
    model = ethanol_model | make_samples(ethanol_model, 3)
    if periodic:
        model |= {"lattice": 9.0 * np.eye(3), "image_rule": "minimum"}
    plain, atoms.calc = atoms.get_potential_energy(), FastGDMLCalculator(model, std=True)
    _, _, E_std, F_std = GDMLPredict(model).predict(atoms.positions, return_std=True)
    assert periodic or atoms.get_potential_energy() == plain
    atoms.get_potential_energy()
    assert ("stress" in atoms.calc.results) == periodic
    assert atoms.calc.results["energy_std"] == pytest.approx(E_std[0] * KCAL, rel=1e-12)
    np.testing.assert_allclose(atoms.calc.results["forces_std"], F_std[0] * KCAL, rtol=1e-12)
    with pytest.raises(UsageError, match="no samples for standard deviations"):
        FastGDMLCalculator(ethanol_model, std=True)


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
    monkeypatch.setattr(calculator.predictor, "predict", lambda R, **options: calls.append(1) or predict(R, **options))
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
    with pytest.raises(PropertyNotImplementedError, match="stress"):  # of a molecule
        atoms.get_stress()
    with pytest.raises(UsageError, match="attach the calculator"):
        atoms.calc.get_property("energy")


def test_energy_is_conserved(atoms):
    atoms.set_momenta(np.random.default_rng(1).normal(0, 0.5, (9, 3)))
    total, kinetic = [], []
    dynamics = VelocityVerlet(atoms, 0.1 * units.fs)
    dynamics.attach(lambda: (total.append(atoms.get_total_energy()), kinetic.append(atoms.get_kinetic_energy())))
    dynamics.run(200)
    assert np.ptp(total) < 0.01 * np.ptp(kinetic)


def total_energies(atoms, seed):
    """Total energy per atom and time (ps), every 5 fs of 4 ps at 300 K without thermostat."""
    masses = atoms.get_masses()[:, None]
    # from a minimum, half of the kinetic energy goes into the potential
    momenta = np.random.default_rng(seed).normal(size=(9, 3)) * np.sqrt(masses * units.kB * 600)
    atoms.set_momenta(momenta - masses * momenta.sum(axis=0) / masses.sum())
    dynamics = VelocityVerlet(atoms, 0.25 * units.fs)
    time, total = [], []
    dynamics.attach(lambda: (time.append(dynamics.get_time()), total.append(atoms.get_total_energy())), interval=20)
    dynamics.run(16000)
    return np.array(total) / len(atoms), np.array(time) / (1000 * units.fs)


@pytest.mark.parametrize("seed", range(3))
def test_energy_does_not_drift(relaxed_ethanol, seed):
    total, time = total_energies(relaxed_ethanol, seed)
    drift = np.polyfit(time, total, 1)[0]
    # measured: 5e-8 to 7e-7 eV per atom and ps, in an energy that oscillates by 1e-4 eV per atom
    assert abs(drift) < 5e-6
    assert np.ptp(total) < 5e-4


def test_optimisation(atoms):
    before = atoms.get_potential_energy()
    assert BFGS(atoms, logfile=None).run(fmax=0.01, steps=300)
    assert atoms.get_potential_energy() < before


@pytest.fixture(scope="module")
def good_ethanol_model(ethanol):
    return GDMLTrain().train(GDMLTrain().create_task(ethanol, 200, ethanol, 10, sig=20, seed=0))


@pytest.fixture
def relaxed_ethanol(ethanol, good_ethanol_model):
    atoms = Atoms(ethanol["z"], ethanol["R"][7], calculator=FastGDMLCalculator(good_ethanol_model))
    assert BFGS(atoms, logfile=None).run(fmax=1e-6, steps=1000)
    return atoms


def test_vibrations(tmp_path, relaxed_ethanol):
    vibrations = Vibrations(relaxed_ethanol, name=str(tmp_path / "vibrations"), delta=0.002)
    vibrations.run()
    frequencies = vibrations.get_frequencies()  # 1/cm; imaginary where the curvature is negative
    # translations and rotations: measured, up to 4, from the finite steps; the softest vibration has 226
    zero = np.argsort(np.abs(frequencies))[:6]
    assert np.abs(frequencies[zero]).max() < 10
    others = np.delete(frequencies, zero)
    assert np.all(others.imag == 0)
    assert others.real.min() > 100
    assert 3300 < others.real.max() < 4000  # O-H


def test_any_kind_of_model(tmp_path, atoms, ethanol_model):
    save_model(tmp_path / "model.npz", ethanol_model)
    export_flat(tmp_path / "model.fgdml", ethanol_model)
    forces = atoms.get_forces()
    predictor = GDMLPredict(ethanol_model, max_processes=1)
    for model in (tmp_path / "model.npz", str(tmp_path / "model.fgdml"), predictor):
        atoms.calc = FastGDMLCalculator(model)
        np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=1e-11)
    assert atoms.calc.predictor is predictor
    assert FastGDMLCalculator(ethanol_model, max_processes=1).predictor.n_threads == 1
    for options in ({"max_processes": 1}, {"backend": "gpu"}):
        with pytest.raises(UsageError, match="those of the GDMLPredict"):
            FastGDMLCalculator(predictor, **options)
    with pytest.raises(UsageError, match="abacus"):
        FastGDMLCalculator(ethanol_model, backend="abacus")


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
    right = atoms.cell.array.copy()
    atoms.set_cell(right * 1.01)
    assert atoms.calc.check_state(atoms) == ["cell"]
    with pytest.raises(DataError, match=r"The cell of the atoms is .* the model was trained in .* any_cell=True"):
        atoms.get_forces()
    atoms.set_cell(right[[1, 0, 2]] * [1, 1, 2])
    with pytest.raises(DataError, match="holds in no other"):
        atoms.get_forces()
    atoms.set_cell(right)
    atoms.get_forces()


def turned(atoms, calculator):
    """A copy, atoms and cell, turned about an axis across all of the cell's vectors."""
    copy = atoms.copy()
    copy.rotate(37.0, (1, 2, 3), rotate_cell=True)
    copy.calc = calculator
    return copy


@pytest.mark.parametrize("any_cell", [False, True])
def test_a_turned_cell(slab, any_cell):
    atoms, _ = slab
    other = turned(atoms, FastGDMLCalculator(atoms.calc.predictor, any_cell=any_cell))
    identity = Atoms("H3", np.eye(3))
    identity.rotate(37.0, (1, 2, 3))
    rotation = identity.positions
    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
    assert other.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    np.testing.assert_allclose(other.get_forces(), forces @ rotation, rtol=0, atol=1e-10)
    np.testing.assert_allclose(other.get_stress(voigt=False), rotation.T @ stress @ rotation, rtol=0, atol=1e-12)


@pytest.mark.parametrize("r_unit", ["Ang", "Bohr"])
def test_stress_of_the_slab(slab, r_unit):
    atoms, reference = slab
    scale = {"Ang": 1.0, "Bohr": units.Bohr}[r_unit]
    in_its_cell = FastGDMLCalculator(atoms.calc.predictor, r_unit=r_unit)
    in_any = FastGDMLCalculator(atoms.calc.predictor, r_unit=r_unit, any_cell=True)
    atoms.set_cell(reference["lattice"].T * scale)
    for R in reference["R_test"][:3]:
        atoms.positions = R * scale
        atoms.calc = in_any
        numerical = calculate_numerical_stress(atoms, eps=1e-5)
        stress = atoms.get_stress()
        assert np.abs(stress).max() > 3e-4
        np.testing.assert_allclose(stress, numerical, rtol=0, atol=3e-5 * np.abs(stress).max())
        atoms.calc = in_its_cell
        np.testing.assert_allclose(atoms.get_stress(), stress, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def crystals():
    """Atoms in a triclinic cell, with models trained in this cell, and in many."""
    made = {}
    for name, lattices in (("one", 1.3 * TRICLINIC), ("many", varying_lattices(160))):
        dataset = periodic_dataset(lattices)
        model = GDMLTrain().train(GDMLTrain().create_task(dataset, 60, dataset, 60, sig=5, seed=0))
        lattice = lattices if name == "one" else lattices[7]
        atoms = Atoms(dataset["z"], dataset["R"][7], cell=lattice.T, pbc=True)
        made[name] = atoms, FastGDMLCalculator(model, "eV", "Ang", any_cell=name == "one")
    return made


@pytest.fixture(params=["one", "many"])
def crystal(request, crystals):
    atoms, calculator = crystals[request.param]
    atoms = atoms.copy()
    atoms.calc = calculator
    return atoms


def test_stress_of_a_triclinic_crystal(crystal):
    for atoms in (crystal, turned(crystal, crystal.calc)):
        numerical = calculate_numerical_stress(atoms, eps=1e-5)
        stress = atoms.get_stress()
        assert np.abs(stress).min() > 1e-4  # all six components count
        np.testing.assert_allclose(stress, numerical, rtol=0, atol=1e-6 * np.abs(stress).max())


def test_relaxation_of_a_cell(crystal):
    energy, stress = crystal.get_potential_energy(), np.abs(crystal.get_stress()).max()
    assert BFGS(FrechetCellFilter(crystal), logfile=None).run(fmax=0.02, steps=200)
    assert crystal.get_potential_energy() < energy - 0.5
    assert np.abs(crystal.get_stress()).max() < 0.1 * stress
    assert np.abs(crystal.get_forces()).max() < 0.02


def test_relaxation_of_the_slab(slab):
    atoms, _ = slab
    atoms.calc = FastGDMLCalculator(atoms.calc.predictor, any_cell=True)
    energy = atoms.get_potential_energy()
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.02, steps=200)
    assert atoms.get_potential_energy() < energy
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.02


def test_models_of_many_cells_need_one(crystals):
    atoms, calculator = crystals["many"]
    bare = Atoms(atoms.numbers, atoms.positions, calculator=calculator)
    with pytest.raises(DataError, match="have no cell"):
        bare.get_forces()
    bare.cell = atoms.cell
    lattice = atoms.cell.array.T
    E, F, virial = calculator.predictor.predict(atoms.positions, lattice=lattice, return_virial=True)
    assert bare.get_potential_energy() == pytest.approx(E[0], rel=1e-12)
    np.testing.assert_allclose(bare.get_forces().ravel(), F[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(bare.get_stress(voigt=False), -virial[0] / bare.get_volume(), rtol=0, atol=1e-13)
    bare.cell = [8, 8, 0]
    with pytest.raises(DataError, match="linearly dependent"):
        bare.get_forces()
    bare.cell = atoms.cell
    np.testing.assert_allclose(bare.get_forces().ravel(), F[0], rtol=0, atol=1e-12)


def test_a_failure_leaves_nothing_behind(crystal):
    right, positions = crystal.cell.array.copy(), crystal.positions.copy()
    crystal.get_forces()
    crystal.cell = right * 1.05
    crystal.positions[1] = crystal.positions[0]
    with pytest.raises(DataError, match="at the same place"):
        crystal.get_forces()
    crystal.cell, crystal.positions = right, positions + 0.01 * np.arange(12).reshape(4, 3)
    _, F = crystal.calc.predictor.predict(crystal.positions, lattice=right.T)
    np.testing.assert_allclose(crystal.get_forces().ravel(), F[0], rtol=0, atol=1e-10)


def test_atoms_without_a_cell_are_in_that_of_the_model(slab):
    atoms, _ = slab
    bare = Atoms(atoms.numbers, atoms.positions, calculator=atoms.calc)
    np.testing.assert_array_equal(bare.get_forces(), atoms.get_forces())
    np.testing.assert_array_equal(bare.get_stress(), atoms.get_stress())


def test_a_cell_around_a_molecule_is_pointed_out(atoms, caplog):
    atoms.set_cell([30, 30, 30])
    atoms.pbc = True
    atoms.get_forces()
    atoms.positions += 1.0
    atoms.get_forces()
    assert caplog.text.count("must not be wrapped") == 1


# ---- as a client of ASE's server --------------------------------------------------------------------------------

CLIENT = """
import sys
from ase.calculators.socketio import SocketClient
from ase.io import read
from fastgdml.drivers.ase import FastGDMLCalculator
atoms = read(sys.argv[1])
atoms.calc = FastGDMLCalculator(sys.argv[2])
SocketClient(unixsocket=sys.argv[3], timeout=60).run(atoms, use_stress=sys.argv[4] == "stress")
"""


@pytest.mark.parametrize("system", ["molecule", "slab"])
def test_over_a_socket(tmp_path, system, request, ethanol_model):
    if system == "molecule":
        atoms, model = request.getfixturevalue("atoms"), ethanol_model
    else:
        atoms, _ = request.getfixturevalue("slab")
        model = load_model(shared_file("reference/cu111_periodic_model_sgdml103.npz"))
    save_model(tmp_path / "model.npz", model)
    write(tmp_path / "start.xyz", atoms)
    periodic = system == "slab"
    arguments = [tmp_path / "start.xyz", tmp_path / "model.npz", "NAME", "stress" if periodic else "forces"]

    def launch(atoms, properties, port, unixsocket):
        arguments[2] = unixsocket
        # elsewhere: in the source folder Python would import fastgdml from there
        return subprocess.Popen([sys.executable, "-c", CLIENT, *map(str, arguments)], cwd=tmp_path)

    name = f"fastgdml-{uuid.uuid4().hex[:12]}"
    remote = atoms.copy()
    with SocketIOCalculator(unixsocket=name, timeout=120, launch_client=launch) as remote.calc:
        for step in range(3):
            for moved in (atoms, remote):
                moved.positions += 0.02 * np.random.default_rng(step).normal(size=(len(atoms), 3))
            # i-PI's protocol counts in Hartree and Bohr
            assert remote.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), rel=1e-12, abs=1e-12)
            np.testing.assert_allclose(remote.get_forces(), atoms.get_forces(), rtol=0, atol=1e-9)
            if periodic:
                np.testing.assert_allclose(remote.get_stress(), atoms.get_stress(), rtol=0, atol=1e-11)


# ---- sgdml's calculator -----------------------------------------------------------------------------------------


@pytest.fixture
def sgdml_calculator():
    """The class, without leaving the stand-in for sgdml installed."""
    finders = list(sys.meta_path)
    from fastgdml.compat.sgdml.intf.ase_calc import SGDMLCalculator

    assert SGDMLCalculator is drivers_ase.SGDMLCalculator
    yield SGDMLCalculator
    sys.meta_path[:] = finders
    sys.modules.pop("sgdml", None)


def test_the_calculator_of_sgdml(tmp_path, atoms, ethanol_model, sgdml_calculator, caplog):
    save_model(tmp_path / "model.npz", ethanol_model)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    calculator = sgdml_calculator(str(tmp_path / "model.npz"))
    assert (calculator.E_to_eV, calculator.F_to_eV_Ang, calculator.Ang_to_R) == (ASE_KCAL, ASE_KCAL, 1.0)
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(energy / KCAL * ASE_KCAL, rel=1e-14)
    np.testing.assert_allclose(atoms.get_forces(), forces / KCAL * ASE_KCAL, rtol=1e-13)
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


# ---- copies -----------------------------------------------------------------------------------------------------


def test_copies_and_pickles(tmp_path, atoms, ethanol_model):
    save_model(tmp_path / "model.npz", ethanol_model)
    atoms.calc = SGDMLCalculator(tmp_path / "model.npz")
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    for copied in (copy.deepcopy(atoms), pickle.loads(pickle.dumps(atoms))):
        assert copied.calc is not atoms.calc
        assert copied.get_potential_energy() == energy
        copied.rattle(0.01, seed=1)
        assert copied.get_potential_energy() != energy
        assert atoms.get_potential_energy() == energy
        np.testing.assert_array_equal(atoms.get_forces(), forces)


def test_reset_and_set(atoms, ethanol_model, caplog):
    atoms.calc = FastGDMLCalculator(ethanol_model)
    energy = atoms.get_potential_energy()
    atoms.calc.reset()
    assert atoms.calc.results == {}
    assert atoms.calc.atoms is None
    assert atoms.get_potential_energy() == energy
    assert atoms.calc.set() == {}
    assert atoms.calc.set(e_unit="eV", max_processes=1) == {"e_unit": "eV", "max_processes": 1}
    assert atoms.calc.predictor.n_threads == 1
    assert atoms.get_potential_energy() == pytest.approx(energy / (units.kcal / units.mol), rel=1e-6)
    assert atoms.calc.set(e_unit="eV") == {}
    with pytest.raises(UsageError, match="unknown unit"):
        atoms.calc.set(e_unit="furlong")
    assert atoms.calc.set(charge=1) == {"charge": 1}
    assert "no parameter charge" in caplog.text
    assert atoms.calc.parameters["charge"] == 1
