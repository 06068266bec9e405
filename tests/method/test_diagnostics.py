"""Each diagnosis on real data made wrong on purpose, and none of them on good data."""

import logging

import numpy as np
import pytest
from support.molecules import random_molecules, symmetric_group_of_three

from fastgdml.dataset import create_dataset, load_dataset
from fastgdml.descriptor import from_R
from fastgdml.diagnostics import (
    Finding,
    check_duplicates,
    check_energies,
    check_energy_deviations,
    check_forces,
    check_linearity,
    check_solution,
    explain_singular,
    find_duplicates,
    numbers_of,
)
from fastgdml.train import GDMLTrain

ALL_CAUSES = (
    "wrong sign",
    "different units",
    "inconsistent",
    "duplicate geometries",
    "nearly linear",
    "Lambda is too small",
    "not positive definite",
    "all equal",
    "do not connect",
    "set to zero",
    "net force,",
    "net torque",
    "do not belong there",
    "unit of length",
    "another length scale",
    "almost at one place",
    "another order in some",
)


def warnings_of_training(dataset, caplog, n_train=80, sig=20, lam=1e-10, **options):
    """The causes that a training of this dataset warns of."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "fastgdml"):
        task = GDMLTrain().create_task(dataset, n_train, dataset, 10, sig, lam=lam, seed=0, **options)
        GDMLTrain().train(task)
    return {cause for cause in ALL_CAUSES if cause in caplog.text}


def changed(dataset, **arrays):
    arrays = {**{key: dataset[key] for key in ("z", "R", "F", "E")}, **arrays}
    return create_dataset("x", "y", arrays["z"], arrays["R"], arrays["F"], arrays["E"], dataset.get("lattice"))


@pytest.mark.parametrize(
    ("name", "n_train"),
    [
        ("md17_ethanol", 200),
        ("md17_ethanol_2000", 100),
        ("xtb_aspirin", 100),
        ("emt_cu111", 60),
        ("qm22_alkane_C14", 30),
        ("md17_aspirin", 60),
    ],
)
def test_good_data_raise_no_warning(name, n_train, shared, caplog):
    dataset = load_dataset(shared(f"data/{name}.npz"))
    assert warnings_of_training(dataset, caplog, n_train, use_sym=False) == set()


def test_the_example_raises_no_warning(ethanol, caplog):
    assert warnings_of_training(ethanol, caplog) == set()
    assert warnings_of_training(ethanol, caplog, use_E=False) == set()


def test_gradients_instead_of_forces(ethanol, caplog):
    assert warnings_of_training(changed(ethanol, F=-ethanol["F"]), caplog) == {"wrong sign"}


@pytest.mark.parametrize("factor", [0.0433641, 23.0605, 0.5291772, 1 / 627.509])
def test_units(ethanol, caplog, factor):
    assert warnings_of_training(changed(ethanol, E=factor * ethanol["E"]), caplog) == {"different units"}
    assert warnings_of_training(changed(ethanol, F=ethanol["F"] / factor), caplog) == {"different units"}


def test_energies_of_other_geometries(ethanol, caplog):
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(ethanol["E"])
        assert warnings_of_training(changed(ethanol, E=shuffled), caplog) == {"inconsistent"}
        assert "another order than the geometries" in caplog.text


def test_gradients_in_other_units():
    E = np.random.default_rng(0).normal(size=40)
    causes = [finding.cause for finding in check_energies(-23 * E, E)]
    assert len(causes) == 2
    assert "wrong sign" in causes[0]
    assert "different units" in causes[1]


def chain(torsions, seed=0):
    """A chain of four atoms with springs and a torsion at given angles: geometries, energies and forces."""
    rng = np.random.default_rng(seed)
    springs = ((0, 1, 1.5, 20), (1, 2, 1.487, 20), (2, 3, 1.5, 20), (0, 2, 2.45, 8), (1, 3, 2.45, 8))

    def geometry(torsion):
        a, b, c = np.zeros(3), np.array([1.5, 0, 0]), np.array([2.0, 1.4, 0])
        along = (c - b) / np.linalg.norm(c - b)
        out = np.cross(b - a, along) / np.linalg.norm(np.cross(b - a, along))
        around = np.cos(torsion) * np.cross(out, along) + np.sin(torsion) * out
        return np.array([a, b, c, c + 1.5 * (0.34 * along + 0.94 * around)])

    def energy(r):
        e = sum(k * (np.linalg.norm(r[:, i] - r[:, j], axis=1) - length) ** 2 for i, j, length, k in springs)
        b1, b2, b3 = (r[:, i + 1] - r[:, i] for i in range(3))
        n1, n2 = np.cross(b1, b2), np.cross(b2, b3)
        y = (np.cross(n1, n2) * b2).sum(axis=1) / np.linalg.norm(b2, axis=1)
        phi = np.arctan2(y, (n1 * n2).sum(axis=1))
        return e + 0.3 * (1 + np.cos(3 * phi)) + 0.4 * (1 + np.cos(phi))

    R = np.array([geometry(torsion) + rng.normal(0, 0.04, (4, 3)) for torsion in torsions])
    F = np.zeros(R.shape)
    for i, x in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[i, x] = 1e-5
        F[:, i, x] = (energy(R - step) - energy(R + step)) / 2e-5
    return create_dataset("chain", "springs", [9, 6, 7, 8], R, F, energy(R))


@pytest.mark.parametrize("sig", [10, 20, 50])
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_conformers_that_forces_do_not_connect(caplog, sig, share):
    rng = np.random.default_rng(1)
    centre = np.where(rng.random(400) < share, np.pi, np.pi / 3)
    dataset = chain(centre + rng.normal(0, 0.15, 400))
    assert warnings_of_training(dataset, caplog, 150, sig) == {"do not connect"}
    assert "--E_cstr" in caplog.text
    assert warnings_of_training(dataset, caplog, 150, sig, use_E_cstr=True) == set()
    # real faults are not taken for conformers
    assert warnings_of_training(changed(dataset, F=-dataset["F"]), caplog, 150, 10) == {"wrong sign"}
    shuffled = rng.permutation(dataset["E"])
    assert warnings_of_training(changed(dataset, E=shuffled), caplog, 150, 10) == {"inconsistent"}


def test_conformers_that_are_connected_raise_no_warning(caplog):
    torsions = np.random.default_rng(2).uniform(0.5, 2 * np.pi - 0.5, 400)
    assert warnings_of_training(chain(torsions), caplog, 200, 5) == set()


@pytest.mark.parametrize("value", [0.0, -97195.25])
def test_constant_energies(ethanol, caplog, value):
    constant = changed(ethanol, E=np.full(len(ethanol["E"]), value))
    assert warnings_of_training(constant, caplog) == {"all equal"}
    assert warnings_of_training(constant, caplog, use_E_cstr=True) == {"all equal"}
    assert warnings_of_training(constant, caplog, use_E=False) == set()


@pytest.mark.parametrize("broken", [[5], [5, 50, 90]])
@pytest.mark.parametrize("off", [500.0, -40.0])
def test_single_energies_that_do_not_belong(ethanol, broken, off):
    rng = np.random.default_rng(0)
    E = ethanol["E"][:100]
    predicted = E + rng.normal(0, 0.1, 100)
    wrong = E.copy()
    wrong[broken] += off
    (finding,) = check_energies(wrong, predicted, from_R(ethanol["R"][:100])[0], np.arange(1000, 1100))
    assert finding.cause == "Energies of some geometries do not belong there."
    assert finding.frames == tuple(1000 + i for i in broken)
    assert str(1000 + broken[0]) in finding.evidence


@pytest.mark.parametrize("atoms", [[0], [3], [2, 8], [0, 1, 2]])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_forces_of_frozen_atoms_set_to_zero(ethanol, caplog, atoms, share):
    F = ethanol["F"].copy()
    some = np.random.default_rng(0).random(len(F)) < share
    F[np.ix_(some, atoms)] = 0
    found = warnings_of_training(changed(ethanol, F=F), caplog, use_sym=False)
    assert "set to zero" in found
    assert found <= {"set to zero", "inconsistent"}
    assert ("inconsistent" in found) == ("mend them first" in caplog.text)
    (finding,) = check_forces(ethanol["z"], ethanol["R"], F)
    assert finding.atoms == tuple(atoms)
    assert finding.frames == (() if share == 1 else tuple(np.flatnonzero(some)))


@pytest.mark.parametrize("names", [("methanol_Cu100_train", range(32)), ("emt_cu111", [0, 1])])
def test_zeroed_forces_of_a_frozen_layer_are_said_once(names, shared, caplog):
    dataset = load_dataset(shared(f"data/{names[0]}.npz"))
    assert check_forces(dataset["z"], dataset["R"], dataset["F"], periodic=True) == []
    F = dataset["F"].copy()
    F[:, list(names[1])] = 0
    (finding,) = check_forces(dataset["z"], dataset["R"], F, periodic=True)
    assert finding.atoms == tuple(names[1])
    assert "(Cu)" in finding.evidence
    trainer = GDMLTrain()
    with caplog.at_level(logging.WARNING, "fastgdml"):
        for sig in (10, 20):
            task = trainer.create_task(changed(dataset, F=F), 20, changed(dataset, F=F), 10, sig, use_sym=False, seed=0)
            trainer.train(task)
    assert caplog.text.count("set to zero") == 1


def test_fixed_directions_and_planar_molecules(ethanol):
    F = ethanol["F"].copy()
    F[:, [0, 4], 2] = 0
    (finding,) = check_forces(ethanol["z"], ethanol["R"], F)
    assert finding.atoms == (0, 4)
    assert "along z" in finding.evidence
    water = carbon_dioxide(50, 1.0)
    flat = water["R"] * [1, 1, 0]
    forces = water["F"] * [1, 1, 0]
    forces -= forces.mean(axis=1, keepdims=True)
    assert not any(finding.atoms for finding in check_forces(water["z"], flat, forces))


@pytest.mark.parametrize("name", ["ethanol", "md17_aspirin", "xtb_aspirin", "qm22_alkane_C14"])
def test_forces_of_other_geometries(name, ethanol, shared):
    dataset = ethanol if name == "ethanol" else load_dataset(shared(f"data/{name}.npz"))
    z, R, F = dataset["z"], np.asarray(dataset["R"], dtype=float), np.asarray(dataset["F"], dtype=float)
    assert check_forces(z, R, F) == []
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    for wrong in (F @ Q, np.random.default_rng(0).permutation(F)):
        (finding,) = check_forces(z, R, wrong)
        assert "net torque" in finding.cause
    few = F.copy()
    few[[17, 40]] += np.abs(F).mean() * np.array([0, 1, 0])
    (finding,) = check_forces(z, R, few)
    assert finding.frames == (17, 40)
    if name == "ethanol":  # in larger molecules torques of two geometries need not stand out
        few[[17, 40]] = 10 * F[[17, 40]] @ Q
        (finding,) = check_forces(z, R, few)
        assert finding.frames == (17, 40)
    (finding,) = check_forces(z, R, F + np.abs(F).mean() * np.array([1, 0, 0]))
    assert "net force" in finding.cause
    assert check_forces(z, R, np.zeros(F.shape)) == []


def test_constant_offset_of_test_energies():
    rng = np.random.default_rng(0)
    for offset in (0.3, -97195.0):
        deviation = offset + rng.normal(0, 0.05, 100)
        rmse = np.sqrt(np.mean(deviation**2))
        (finding,) = check_energy_deviations(deviation.mean(), np.abs(deviation).mean(), rmse, 100)
        assert "differ by a constant" in finding.cause
        assert f"{deviation.mean():.6g}" in finding.remedy
    two = np.where(rng.random(100) < 0.5, 0.3, -0.3) + rng.normal(0, 0.03, 100)
    (finding,) = check_energy_deviations(two.mean(), np.abs(two).mean(), np.sqrt(np.mean(two**2)), 100)
    assert "--E_cstr" in finding.remedy
    for usual in (rng.normal(size=100), rng.uniform(-1, 1, 100), rng.normal(0.5, 1, 100), np.zeros(100)):
        assert check_energy_deviations(usual.mean(), np.abs(usual).mean(), np.sqrt(np.mean(usual**2)), 100) == []


def test_runs_of_numbers():
    assert numbers_of([3]) == "3"
    assert numbers_of([4, 3]) == "3, 4"
    assert numbers_of([*range(32), 40]) == "0-31, 40"
    assert numbers_of(range(0, 40, 2)) == "0, 2, 4, 6, 8, 10 and 14 more"


def test_too_little_to_tell():
    assert check_energies(np.array([1.0]), np.array([2.0])) == []
    assert check_energies(np.arange(5.0), np.ones(5)) == []


def rotated(r, seed=0):
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return r @ Q + [1.0, -2.0, 3.0]


@pytest.mark.parametrize("how", ["copied", "rotated", "permuted"])
def test_duplicates(ethanol, caplog, how):
    R, F = ethanol["R"][:60].copy(), ethanol["F"][:60].copy()
    perm = [0, 1, 2, 3, 5, 4, 6, 7, 8]
    R[50] = {"copied": R[7], "rotated": rotated(R[7]), "permuted": R[7][perm]}[how]
    data = changed(ethanol, R=R, F=F, E=ethanol["E"][:60])
    perms = np.array([np.arange(9), perm])
    task = GDMLTrain().create_task(data, 50, data, 10, 20, perms=perms, seed=0)
    both = np.arange(1, 51)  # 7 and 50 among them
    task |= {"idxs_train": both, "R_train": R[both], "F_train": F[both], "E_train": data["E"][both]}
    with caplog.at_level(logging.WARNING, "fastgdml"):
        GDMLTrain().train({**task, "lam": 1e-8})
    assert "7 and 50 of the dataset" in caplog.text
    assert "In 1 of 1 cases the force labels differ" in caplog.text


def test_duplicates_are_found_among_many():
    R = random_molecules(60, 6)
    R[[9, 41]] = R[3]
    R[50] = R[20][[1, 2, 0, 3, 4, 5]]
    x = from_R(R)[0]
    assert find_duplicates(x) == [(3, 9), (3, 41)]
    assert find_duplicates(x, symmetric_group_of_three(6)) == [(3, 9), (3, 41), (20, 50)]
    (finding,) = check_duplicates(x, idxs=np.arange(100, 160))
    assert "2 of 60 training points" in finding.evidence
    assert "103 and 109" in finding.evidence
    assert check_duplicates(x[:9]) == []


def test_neighbours_in_a_trajectory_are_no_duplicates(shared):
    dataset = load_dataset(shared("data/md17_ethanol_2000.npz"))  # consecutive frames
    assert find_duplicates(from_R(dataset["R"])[0]) == []


def carbon_dioxide(n_geo, bend, seed=0):
    """Geometries, energies and forces of harmonic springs between three atoms that stay near a line."""
    rng = np.random.default_rng(seed)
    R = np.array([[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0]]) + rng.uniform(-0.05, 0.05, (n_geo, 3, 3)) * [1, bend, bend]
    E, F = np.zeros(n_geo), np.zeros(R.shape)
    for a, b, length in ((0, 1, 1.16), (1, 2, 1.16), (0, 2, 2.32)):
        d = R[:, a] - R[:, b]
        r = np.linalg.norm(d, axis=1)
        E += 50 * (r - length) ** 2
        F[:, a] -= (100 * (r - length) / r)[:, None] * d
        F[:, b] += (100 * (r - length) / r)[:, None] * d
    return create_dataset("co2", "springs", [8, 6, 8], R, F, E)


def test_nearly_linear_molecules(caplog):
    assert warnings_of_training(carbon_dioxide(60, 0.1), caplog, 40, sig=2) == {"nearly linear"}
    bent = carbon_dioxide(60, 1.0)
    bent["R"][:, 1, 1] += 0.3
    assert check_linearity(bent["R"]) == []
    assert check_linearity(bent["R"][:, :2]) == []  # two atoms always lie on a line


def test_lambda_too_small(ethanol, caplog):
    assert warnings_of_training(ethanol, caplog, 95, sig=1000, lam=1e-17) == {"Lambda is too small"}
    assert "solved with an error of" in caplog.text


def test_rounding_is_told_from_net_forces_and_regularisation():
    rng = np.random.default_rng(0)
    R, F = random_molecules(5, 4), rng.normal(size=(5, 4, 3))
    alphas = rng.normal(size=60)
    F_pred = F + 1e-2 * 2.0 * alphas.reshape(F.shape)  # what lambda leaves
    F_pred += np.array([1.0, 2.0, 3.0]) + np.cross([0.3, -0.2, 0.5], R)  # a net force and a torque
    assert check_solution(R, F, F_pred, alphas, 2.0, 1e-2) == []
    assert len(check_solution(R, F, F_pred, alphas, 2.0, 1e-2, periodic=True)) == 1  # no rotation there
    F_pred += 1e-3 * rng.normal(size=F.shape)
    assert len(check_solution(R, F, F_pred, alphas, 2.0, 1e-2)) == 1


def test_singular_matrices_are_explained():
    R = random_molecules(8, 5)
    assert "Lambda is too small" in explain_singular(from_R(R)[0], 1e-15).evidence
    R[6] = R[2]
    assert "points 2 and 6 have the same geometry" in explain_singular(from_R(R)[0], 1e-15).evidence


def test_findings_read_as_sentences():
    assert str(Finding("Cause.", "Evidence.", "Remedy.")) == "Cause. Evidence. Remedy."
