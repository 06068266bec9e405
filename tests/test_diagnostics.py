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
    check_linearity,
    check_solution,
    explain_singular,
    find_duplicates,
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
)


def warnings_of_training(dataset, caplog, n_train=80, sig=20, lam=1e-10, **options):
    """The causes that a training of this dataset warns of."""
    task = GDMLTrain().create_task(dataset, n_train, dataset, 10, sig, lam=lam, seed=0, **options)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "fastgdml"):
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
    shuffled = np.random.default_rng(0).permutation(ethanol["E"])
    assert "inconsistent" in warnings_of_training(changed(ethanol, E=shuffled), caplog)


def test_gradients_in_other_units():
    E = np.random.default_rng(0).normal(size=40)
    causes = [finding.cause for finding in check_energies(-23 * E, E)]
    assert len(causes) == 2
    assert "wrong sign" in causes[0]
    assert "different units" in causes[1]


def test_too_little_to_tell():
    assert check_energies(np.array([1.0]), np.array([2.0])) == []
    assert check_energies(np.ones(5), np.arange(5.0)) == []
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
    assert warnings_of_training(ethanol, caplog, 200, sig=1000, lam=1e-17) == {"Lambda is too small"}
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
