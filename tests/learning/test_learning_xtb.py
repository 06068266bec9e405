"""Learning on the fly with a real calculator, GFN2-xTB: ethanol from one geometry."""

import importlib.util

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

from fastgdml.dataset import create_dataset, load_dataset
from fastgdml.drivers.ase import FastGDMLCalculator
from fastgdml.evaluate import prediction_errors
from fastgdml.learning import LearnOptions, learn
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tblite") is None, reason="needs tblite: pip install '.[xtb]'")
TEMPERATURE, CALLS = 500.0, 60
KCAL = units.kcal / units.mol


class Counted:
    """Makes calculators, and counts what they calculate."""

    def __init__(self):
        self.asked = []

    def __call__(self):
        from tblite.ase import TBLite

        asked = self.asked

        class Counting(TBLite):
            def calculate(self, atoms=None, *args, **kwargs):
                asked.append(atoms.positions.tobytes())
                super().calculate(atoms, *args, **kwargs)

        return Counting(method="GFN2-xTB", verbosity=0)


def momenta(atoms, temperature, seed):
    masses = atoms.get_masses()[:, None]
    drawn = np.sqrt(masses * units.kB * temperature) * np.random.default_rng(seed).standard_normal((len(atoms), 3))
    return drawn - masses / masses.sum() * drawn.sum(axis=0)


def trajectory(start, n_steps, seed):
    """A dataset of every step of the calculator's own dynamics."""
    atoms = Atoms(start.numbers, start.positions)
    atoms.calc = Counted()()
    atoms.set_momenta(momenta(atoms, TEMPERATURE, seed))
    rng = np.random.default_rng(seed)
    options = {"temperature_K": TEMPERATURE, "friction": 0.01 / units.fs, "rng": rng, "fixcm": False}
    dynamics = Langevin(atoms, 0.5 * units.fs, **options)
    R, E, F = [], [], []
    for _ in range(n_steps):
        dynamics.run(1)
        R.append(atoms.positions.copy())
        E.append(atoms.get_potential_energy() / KCAL)
        F.append(atoms.get_forces() / KCAL)
    arrays = np.array(R), np.array(F), np.array(E)
    return create_dataset("ethanol", "GFN2-xTB", atoms.numbers, *arrays, r_unit="Ang", e_unit="kcal/mol")


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A model of ethanol, from one geometry, in two sittings; with what the calculator was asked."""
    folder = tmp_path_factory.mktemp("xtb")
    ase.io.write(folder / "start.xyz", molecule("CH3CH2OH"))
    counted = Counted()

    def sitting(calls):
        options = LearnOptions(temperature=TEMPERATURE, target_mae=1e-6, max_calls=calls, seed=1, max_processes=1)
        return learn(folder / "start.xyz", folder / "model.npz", counted, options)

    first = sitting(25)
    assert (first.n_calls, len(counted.asked)) == (25, 25)
    return sitting(CALLS), counted.asked


def test_no_call_is_repeated(learned):
    found, asked = learned
    assert found.n_calls == CALLS == len(asked) == len(set(asked))
    assert len(load_dataset(found.dataset)["R"]) == CALLS


def test_labels_are_those_of_the_calculator(learned):
    """In kcal/mol and Angstrom, from calculations that know nothing of each other."""
    dataset = load_dataset(learned[0].dataset)
    for i in (0, 30, CALLS - 1):
        atoms = Atoms(dataset["z"], dataset["R"][i])
        atoms.calc = Counted()()
        assert dataset["E"][i] == pytest.approx(atoms.get_potential_energy() / KCAL, abs=1e-3)
        np.testing.assert_allclose(dataset["F"][i], atoms.get_forces() / KCAL, atol=1e-2)


def test_it_is_as_good_as_frames_of_a_trajectory_of_ten_times_the_calls(learned):
    """On another trajectory of the calculator, which begins where that one ends."""
    found, _ = learned
    start = molecule("CH3CH2OH")
    full = trajectory(start, 10 * CALLS, seed=1)
    test = trajectory(Atoms(full["z"], full["R"][-1]), 400, seed=2)
    task = GDMLTrain(max_processes=1).create_task(full, CALLS, full, 20, sig=found.sig, seed=1)
    frames = GDMLTrain(max_processes=1).train(task, solver="closed")
    idxs = np.arange(0, 400, 8)
    errors = [prediction_errors(GDMLPredict(m, max_processes=1), test, idxs, False) for m in (found.model, frames)]
    maes = [each.mae["force"] for each in errors]
    print(f"MAE of forces, kcal/mol/Ang: {maes[0]:.3f} with {CALLS} calls, {maes[1]:.3f} with {10 * CALLS}")
    assert maes[0] < maes[1]
    assert maes[0] < 0.15 * np.abs(test["F"]).mean()


def test_constant_energy_at_the_temperature_of_learning(learned):
    found, _ = learned
    atoms = molecule("CH3CH2OH")
    atoms.calc = FastGDMLCalculator(found.model, max_processes=1)
    atoms.set_momenta(momenta(atoms, 2 * TEMPERATURE, 3))  # near the minimum, half of it becomes potential energy
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    total, heat = [atoms.get_total_energy() / KCAL], []
    for _ in range(200):  # 2 ps
        dynamics.run(20)
        total.append(atoms.get_total_energy() / KCAL)
        heat.append(atoms.get_temperature())
    assert np.abs(np.array(total) - total[0]).max() < 1.0
    assert 300 < np.mean(heat) < 800
    bonds = [(0, 1), (1, 2), (2, 3)]
    reference = molecule("CH3CH2OH")
    for a, b in bonds:
        assert atoms.get_distance(a, b) == pytest.approx(reference.get_distance(a, b), abs=0.3)
