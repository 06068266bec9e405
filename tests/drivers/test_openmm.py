"""The force for OpenMM, in OpenMM itself."""

import subprocess
import sys

import numpy as np
import pytest
from support.crystals import TRICLINIC, periodic_dataset
from support.paths import shared_file

from fastgdml.errors import DataError, UsageError
from fastgdml.flat import export_flat
from fastgdml.model import save_model
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain

openmm = pytest.importorskip("openmm", minversion="8.6", reason="needs OpenMM 8.6: pip install '.[openmm]'")

from openmm import app, unit  # noqa: E402

from fastgdml.drivers.openmm import force  # noqa: E402

KCAL = 4.184  # kJ
MASSES = {1: 1.008, 6: 12.011, 8: 15.999, 14: 28.085, 18: 39.95, 29: 63.546}

platforms = pytest.mark.parametrize("platform", ["Reference", "CPU"])


def system_of(numbers, *forces, box=None):
    system = openmm.System()
    for z in numbers:
        system.addParticle(MASSES[int(z)])
    for term in forces:
        system.addForce(term)
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*box)
    return system


def context_of(system, positions, platform="Reference", dt=0.0001):
    context = openmm.Context(system, openmm.VerletIntegrator(dt), openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions)
    return context


def energy_and_forces(context, groups=-1):
    state = context.getState(energy=True, forces=True, groups=groups)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole), forces


def positions_of(context):
    return context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)


@platforms
def test_energy_and_forces_in_units_of_openmm(tmp_path, ethanol, ethanol_model, platform):
    save_model(tmp_path / "model.npz", ethanol_model)
    export_flat(tmp_path / "model.fgdml", ethanol_model)
    E, F = GDMLPredict(ethanol_model).predict(ethanol["R"][7])
    for model in (ethanol_model, tmp_path / "model.npz", tmp_path / "model.fgdml", GDMLPredict(ethanol_model)):
        term = force(model)
        assert not term.usesPeriodicBoundaryConditions()
        context = context_of(system_of(ethanol["z"], term), ethanol["R"][7] * 0.1, platform)
        energy, forces = energy_and_forces(context)
        assert energy == pytest.approx(E[0] * KCAL, rel=1e-12)
        # the CPU platform adds up forces in single precision
        tolerance = {"Reference": 1e-9, "CPU": 1e-6}[platform] * np.abs(forces).max()
        np.testing.assert_allclose(forces, F.reshape(9, 3) * KCAL * 10, rtol=0, atol=tolerance)


def test_units_may_be_given(ethanol, ethanol_model):
    E, F = GDMLPredict(ethanol_model).predict(ethanol["R"][7])
    bare = {key: value for key, value in ethanol_model.items() if key not in ("e_unit", "r_unit")}
    with pytest.raises(UsageError, match=r"'e_unit' missing"):
        force(bare)
    bohr = 0.0529177210903
    for e_unit, r_unit in (("kcal/mol", "Bohr"), (KCAL, bohr)):
        context = context_of(system_of(ethanol["z"], force(bare, None, e_unit, r_unit)), ethanol["R"][7] * bohr)
        energy, forces = energy_and_forces(context)
        assert energy == pytest.approx(E[0] * KCAL, rel=1e-12)
        np.testing.assert_allclose(forces.ravel(), F[0] * KCAL / bohr, rtol=0, atol=1e-9 * np.abs(forces).max())


@platforms
def test_energy_is_conserved(ethanol, ethanol_model, platform):
    context = context_of(system_of(ethanol["z"], force(ethanol_model)), ethanol["R"][7] * 0.1, platform)
    context.setVelocitiesToTemperature(300, 1)
    total, kinetic = [], []
    for _ in range(200):
        context.getIntegrator().step(1)
        state = context.getState(energy=True)
        kinetic.append(state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole))
        total.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) + kinetic[-1])
    assert np.ptp(total) < 0.01 * np.ptp(kinetic)
    assert np.ptp(kinetic) > 5


def argon(n_particles, molecule, periodic):
    """Lennard-Jones terms of all particles, but within the molecule; and bonds without strength, which make it one."""
    terms = openmm.NonbondedForce()
    terms.setNonbondedMethod(terms.CutoffPeriodic if periodic else terms.NoCutoff)
    terms.setCutoffDistance(0.9)
    for i in range(n_particles):
        terms.addParticle(0, 0.3 if i in molecule else 0.34, 0.3 if i in molecule else 1.0)
    for i in molecule:
        for j in molecule:
            if j < i:
                terms.addException(i, j, 0, 1, 0)
    bonds = openmm.HarmonicBondForce()
    for i in molecule[1:]:
        bonds.addBond(molecule[0], i, 0, 0)
    return terms, bonds


@pytest.fixture
def ethanol_in_argon(ethanol):
    """Twenty-seven argon atoms, and ethanol at scattered indices, outside the box of 2.4 nm."""
    rng = np.random.default_rng(4)
    molecule = [int(i) for i in rng.permutation(36)[:9]]
    others = [i for i in range(36) if i not in molecule]
    numbers, positions = np.full(36, 18), np.empty((36, 3))
    numbers[molecule] = ethanol["z"]
    positions[molecule] = (ethanol["R"][7] - ethanol["R"][7].mean(axis=0)) * 0.1
    positions[others] = np.stack(np.meshgrid(*[np.arange(3) * 0.75 + 0.45] * 3), axis=-1).reshape(27, 3)
    return numbers, positions, molecule


@platforms
@pytest.mark.parametrize("periodic", [False, True])
def test_a_molecule_among_others(ethanol, ethanol_model, ethanol_in_argon, platform, periodic):
    numbers, positions, molecule = ethanol_in_argon
    box = np.eye(3) * 2.4
    terms = argon(36, molecule, periodic)
    term = force(ethanol_model, molecule)
    both = context_of(system_of(numbers, *terms, term, box=box), positions, platform)
    without = context_of(system_of(numbers, *argon(36, molecule, periodic), box=box), positions, platform)
    E, F = GDMLPredict(ethanol_model).predict(ethanol["R"][7])
    expected_energy, expected = energy_and_forces(without)
    assert np.abs(expected[molecule]).max() > 0.1
    expected[molecule] += F.reshape(9, 3) * KCAL * 10
    energy, forces = energy_and_forces(both)
    assert energy == pytest.approx(expected_energy + E[0] * KCAL, rel=1e-8)
    np.testing.assert_allclose(forces, expected, rtol=0, atol=1e-5 * np.abs(forces).max())


@platforms
def test_a_molecule_stays_whole_under_a_barostat(ethanol_model, ethanol_in_argon, platform):
    numbers, positions, molecule = ethanol_in_argon
    term = force(ethanol_model, molecule)
    term.setForceGroup(1)
    barostat = openmm.MonteCarloBarostat(1, 100, 5)
    barostat.setRandomNumberSeed(1)
    system = system_of(numbers, *argon(36, molecule, True), term, barostat, box=np.eye(3) * 2.4)
    context = context_of(system, positions, platform, dt=0.0002)
    context.setVelocitiesToTemperature(100, 1)
    context.getIntegrator().step(300)
    assert context.getState().getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)[0, 0] != 2.4
    R = positions_of(context)[molecule] * 10
    assert np.linalg.norm(R[:, None] - R, axis=2).max() < 5
    E, _ = GDMLPredict(ethanol_model).predict(R)
    assert energy_and_forces(context, {1})[0] == pytest.approx(E[0] * KCAL, rel=1e-9)


@pytest.mark.parametrize(
    "particles",
    [range(8), range(10), [0, 1, 2, 3, 4, 5, 6, 7, 7], range(-1, 8)],
    ids=["few", "many", "twice", "negative"],
)
def test_indices_must_be_those_of_the_atoms(ethanol_model, particles):
    with pytest.raises(UsageError, match="the model has 9 atoms: give the index of each"):
        force(ethanol_model, particles)


def test_all_particles_must_be_the_models(ethanol, ethanol_model):
    numbers, positions = [*ethanol["z"], 18], np.vstack([ethanol["R"][7] * 0.1, [2, 2, 2]])
    context = context_of(system_of(numbers, force(ethanol_model)), positions)
    with pytest.raises(openmm.OpenMMException, match="10 particles, the model 9 atoms: say which"):
        context.getState(energy=True)


def test_coincident_atoms_are_reported(ethanol, ethanol_model):
    positions = ethanol["R"][7] * 0.1
    positions[3] = positions[4]
    with pytest.raises(openmm.OpenMMException, match="Two atoms of geometry 0 are at the same place"):
        context_of(system_of(ethanol["z"], force(ethanol_model)), positions).getState(energy=True)


# ---- periodic models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crystal():
    """Atoms in a triclinic cell, and a model trained in it."""
    dataset = periodic_dataset(1.3 * TRICLINIC)
    return dataset, GDMLTrain().train(GDMLTrain().create_task(dataset, 60, dataset, 60, sig=5, seed=0))


@platforms
def test_a_crystal(crystal, platform):
    dataset, model = crystal
    term = force(model, None, "kcal/mol", "Ang", any_cell=True)
    assert term.usesPeriodicBoundaryConditions()
    R, lattice = dataset["R"][7], np.asarray(dataset["lattice"])
    context = context_of(system_of(dataset["z"], term, box=lattice.T * 0.1), R * 0.1, platform)
    for strain in (1.0, 1.01):
        context.setPeriodicBoxVectors(*lattice.T * strain * 0.1)
        E, F = GDMLPredict(model).predict(R, lattice=lattice * strain)
        energy, forces = energy_and_forces(context)
        assert energy == pytest.approx(E[0] * KCAL, rel=1e-10)
        np.testing.assert_allclose(forces.ravel(), F[0] * KCAL * 10, rtol=0, atol=1e-5 * np.abs(forces).max())


def test_another_box_is_refused(crystal):
    dataset, model = crystal
    R, box = dataset["R"][7], np.asarray(dataset["lattice"]).T * 0.1
    system = system_of(dataset["z"], force(model, None, "kcal/mol", "Ang"), box=box)
    context = context_of(system, R * 0.1)
    assert np.isfinite(energy_and_forces(context)[0])
    context.setPeriodicBoxVectors(*box * 1.01)
    with pytest.raises(openmm.OpenMMException, match=r"The box is .* the model was trained in .* any_cell=True"):
        context.getState(energy=True)


def test_the_slab():
    with np.load(shared_file("reference/cu111_periodic.npz")) as reference:
        z, R, lattice, E, F = (reference[key] for key in ("z", "R_test", "lattice", "E_pred", "F_pred"))
    term = force(shared_file("reference/cu111_periodic_model_sgdml103.npz"))
    context = context_of(system_of(z, term, box=lattice.T * 0.1), R[0] * 0.1)
    energy, forces = energy_and_forces(context)
    np.testing.assert_allclose(forces.ravel(), F[0].ravel() * KCAL * 10, rtol=0, atol=1e-7)
    assert energy == pytest.approx(float(E[0]) * KCAL, abs=1e-7)


# ---- serialization ----------------------------------------------------------------------------------------------


def test_a_system_is_serialized_with_its_force(tmp_path, ethanol, ethanol_model):
    save_model(tmp_path / "model.npz", ethanol_model)
    system = system_of(ethanol["z"], force(tmp_path / "model.npz", range(9)))
    copy = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    assert list(copy.getForce(0).getParticles()) == list(range(9))
    (energy, forces), (energy_of_copy, forces_of_copy) = (
        energy_and_forces(context_of(each, ethanol["R"][7] * 0.1)) for each in (system, copy)
    )
    assert energy_of_copy == energy
    np.testing.assert_array_equal(forces_of_copy, forces)
    with pytest.raises(openmm.OpenMMException, match="could not be pickled"):
        openmm.XmlSerializer.serialize(force(ethanol_model))


def test_a_system_is_read_in_another_folder(tmp_path, monkeypatch, ethanol, ethanol_model):
    monkeypatch.chdir(tmp_path)
    save_model("model.npz", ethanol_model)
    system = system_of(ethanol["z"], force("model.npz"))
    text = openmm.XmlSerializer.serialize(system)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir("sub")
    copy = openmm.XmlSerializer.deserialize(text)
    E, _ = GDMLPredict(ethanol_model).predict(ethanol["R"][7])
    energy, _ = energy_and_forces(context_of(copy, ethanol["R"][7] * 0.1))
    assert energy == pytest.approx(E[0] * KCAL, rel=1e-12)


READ = """
import sys, openmm
system = openmm.XmlSerializer.deserialize(open("system.xml").read())
again = openmm.XmlSerializer.serialize(system)
context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
context.setPositions([openmm.Vec3(i, 0, 0) for i in range(system.getNumParticles())])
try:
    context.getState(energy=True)
except openmm.OpenMMException as error:
    print("refused:", error)
openmm.XmlSerializer.deserialize(again)
"""


@pytest.mark.parametrize("what", ["missing", "damaged", "folder"])
def test_a_model_that_cannot_be_read_with_its_system(tmp_path, ethanol, ethanol_model, what):
    path = tmp_path / "model.npz"
    save_model(path, ethanol_model)
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system_of(ethanol["z"], force(path))))
    path.unlink()
    if what == "damaged":
        path.write_bytes(b"PK" + bytes(1000))
    elif what == "folder":
        path.mkdir()
    done = subprocess.run([sys.executable, "-c", READ], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # OpenMM would have ended the process
    assert "refused: " in done.stdout
    assert "model.npz" in done.stdout


def topology_of(symbols):
    topology = app.Topology()
    residue = topology.addResidue("ETH", topology.addChain())
    for symbol in symbols:
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    return topology


def test_the_order_of_atoms_is_compared(ethanol, ethanol_model):
    right, turned = "CCOHHHHHH", "HHHHHHOCC"
    force(ethanol_model, topology=topology_of(right))
    force(ethanol_model, range(8, -1, -1), topology=topology_of(turned))
    force(ethanol_model, range(1, 10), topology=topology_of("O" + right))
    with pytest.raises(
        DataError, match=r"The topology has H H H H H H O C C where .* in the order of the training set"
    ):
        force(ethanol_model, topology=topology_of(turned))
    with pytest.raises(DataError, match="these are other atoms"):
        force(ethanol_model, topology=topology_of("CCNHHHHHH"))
    with pytest.raises(DataError, match="The topology has 10 particles, the model 9 atoms"):
        force(ethanol_model, topology=topology_of("O" + right))
    force(ethanol_model, system=system_of(ethanol["z"]))
    with pytest.raises(DataError, match="The System has H H H H H H O C C where"):
        force(ethanol_model, system=system_of(ethanol["z"][::-1]))
    heavy = system_of(ethanol["z"])
    heavy.setParticleMass(3, 4.0 + 0.7)
    with pytest.raises(DataError, match="does not tell the element of particle 3"):
        force(ethanol_model, system=heavy)
