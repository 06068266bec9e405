"""Geometries that do not belong, planted into real data; and nothing said of the data as they are."""

import numpy as np
import pytest
from support.paths import shared_file

from fastgdml.cell import Cell
from fastgdml.dataset import create_dataset, load_dataset
from fastgdml.descriptor import from_R
from fastgdml.errors import DataError
from fastgdml.frames import (
    check_frames,
    check_length_unit,
    check_order_of_atoms,
    check_wrapped,
    diagnose_dataset,
)
from fastgdml.neighbours import Neighbours
from fastgdml.train import GDMLTrain

MOLECULES = ["md17_ethanol", "md17_ethanol_2000", "md17_aspirin", "xtb_ethanol", "xtb_aspirin", "qm22_alkane_C14"]


def neighbours(R, cell=None):
    return Neighbours.of(from_R(R, cell)[0])


def causes(dataset):
    return [finding.cause for finding in diagnose_dataset(dataset)]


def changed(dataset, **arrays):
    return {key: dataset[key] for key in ("z", "R", "F", "E", "lattice", "r_unit") if key in dataset} | arrays


@pytest.fixture(scope="module", params=["ethanol", "md17_aspirin", "qm22_alkane_C14"])
def molecule(request):
    """500 geometries of a molecule."""
    name = request.param
    dataset = load_dataset(name if name == "ethanol" else shared_file(f"data/{name}.npz"))
    some = np.arange(500)
    return changed(dataset, **{key: np.asarray(dataset[key][some], dtype=float) for key in ("R", "F", "E")})


def test_neighbours_are_those_of_the_distances(molecule):
    R = molecule["R"][:20]
    near = neighbours(R)
    d = np.linalg.norm(R[:, :, None] - R[:, None], axis=3)
    d[:, np.arange(R.shape[1]), np.arange(R.shape[1])] = np.inf
    np.testing.assert_allclose(near.distance, d.min(axis=2), rtol=1e-12)
    np.testing.assert_array_equal(near.nearest, d.argmin(axis=2))
    np.testing.assert_allclose(near.second, np.sort(d, axis=2)[:, :, 1], rtol=1e-12)
    two = neighbours(R[:, :2])
    assert np.isinf(two.second).all()


@pytest.mark.parametrize("name", MOLECULES)
def test_nothing_is_said_of_good_molecules(name, shared):
    assert diagnose_dataset(load_dataset(shared(f"data/{name}.npz"))) == []


def test_nothing_is_said_of_the_example_and_of_single_precision(ethanol, shared):
    assert diagnose_dataset(ethanol) == []
    single = {key: ethanol[key].astype(np.float32) for key in ("R", "F")}
    assert diagnose_dataset(changed(ethanol, **single)) == []


def test_only_notes_of_good_crystals(shared):
    assert diagnose_dataset(load_dataset(shared("data/emt_cu111.npz"))) == []
    slab = diagnose_dataset(load_dataset(shared("data/methanol_Cu100_train.npz")))
    assert {finding.level for finding in slab} == {"note"}
    assert any("wrapped into the cell" in finding.cause for finding in slab)


@pytest.mark.parametrize("frames", [[7], [0, 3, 250], list(range(100, 220))])
@pytest.mark.parametrize("factor", [1 / 0.529177, 0.529177, 10, 0.1])
def test_frames_with_another_length_scale(molecule, frames, factor):
    R = molecule["R"].copy()
    R[frames] *= factor
    (finding,) = check_frames(neighbours(R), molecule["z"], np.arange(1000, 1500))
    assert "another length scale" in finding.cause
    assert finding.frames == tuple(1000 + i for i in frames)
    assert ("Bohr" in finding.evidence) == (0.5 < factor < 2)


@pytest.mark.parametrize("frames", [[7], [0, 3, 250]])
@pytest.mark.parametrize("distance", [1e-6, 1e-3, 0.2])
@pytest.mark.parametrize("pair", [(0, 1), (2, 5)])
def test_two_atoms_almost_at_one_place(molecule, frames, distance, pair):
    R = molecule["R"].copy()
    R[frames, pair[1]] = R[frames, pair[0]] + np.array([0, 0, distance])
    findings = diagnose_dataset(changed(molecule, R=R))
    (finding,) = [finding for finding in findings if "almost at one place" in finding.cause]
    assert finding.frames == tuple(frames)
    assert set(pair) <= set(finding.atoms)


@pytest.mark.parametrize("pair", [[0, 1], [4, 8]])  # two C, two H
@pytest.mark.parametrize("frames", [[7], [0, 3, 250], list(range(0, 500, 3))])
def test_like_atoms_in_another_order(ethanol, pair, frames):
    R = ethanol["R"][:500].copy()
    near = neighbours(R)
    assert near.nearest[0, 4] != near.nearest[0, 8]  # bound to different atoms
    R[np.ix_(frames, pair)] = R[np.ix_(frames, pair[::-1])]
    (finding,) = check_order_of_atoms(neighbours(R), ethanol["z"], np.arange(1000, 1500))
    assert finding.frames == tuple(1000 + i for i in frames)
    assert "symmetries" in finding.remedy


def test_symmetric_exchanges_are_not_another_order(ethanol):
    R = ethanol["R"][:500].copy()
    held_by = neighbours(R).nearest[0]
    methyl = [atom for atom in range(9) if ethanol["z"][atom] == 1 and held_by[atom] == held_by[5]]
    R[np.ix_(range(0, 500, 3), methyl)] = R[np.ix_(range(0, 500, 3), methyl[::-1])]
    assert check_order_of_atoms(neighbours(R), ethanol["z"]) == []


def test_a_proton_that_moves_is_not_another_order():
    """H between two O of a chain O=C-C-C-O, with geometries on the way."""
    rng = np.random.default_rng(0)
    base = np.array([[0, 0, 0], [0.6, 1.2, 0], [2.0, 1.6, 0], [3.4, 1.2, 0], [4.0, 0, 0], [0, 0, 0]], dtype=float)
    R = base + rng.normal(0, 0.03, (400, 6, 3))
    R[:, 4, 0] -= 1.5
    R[:, 5] = R[:, 0] + np.linspace(0.9, 1.6, 400)[:, None] * [1, 0, 0]
    assert check_order_of_atoms(neighbours(R), [8, 6, 6, 6, 8, 1]) == []


def test_training_and_tasks_name_frames_and_orders(ethanol, caplog):
    R = ethanol["R"].copy()
    R[11] *= 1.88973
    R[np.ix_([40, 90], [0, 1])] = R[np.ix_([40, 90], [1, 0])]
    dataset = create_dataset("x", "y", ethanol["z"], R[:120], ethanol["F"][:120], ethanol["E"][:120])
    GDMLTrain().create_task(dataset, 119, dataset, 1, 20, use_sym=False, seed=1)
    assert "another length scale" in caplog.text
    assert "1 of 119, 11 of the dataset" in caplog.text
    assert "Like atoms are listed in another order" in caplog.text
    assert "40, 90 of the dataset" in caplog.text


@pytest.mark.parametrize(("factor", "unit"), [(1e-10, "metres"), (1e-8, "centimetres"), (0.1, "nanometres")])
def test_units_of_length_that_are_not_angstrom(molecule, factor, unit):
    (finding,) = check_length_unit(neighbours(factor * molecule["R"]), molecule["z"])
    assert f"R seems to be in {unit}" in finding.evidence
    assert finding.level == ("warning" if factor == 0.1 else "error")
    dataset = changed(molecule, R=factor * molecule["R"], F=molecule["F"] / factor, name="x", theory="y")
    if finding.level == "error":
        with pytest.raises(DataError, match=f"R seems to be in {unit}"):
            GDMLTrain().create_task(dataset, 20, dataset, 10, 20, seed=0)


def test_recorded_units_of_length(molecule):
    near, bohr = neighbours(molecule["R"]), neighbours(molecule["R"] / 0.529177)
    z = molecule["z"]
    for good, unit in ((near, None), (near, "Ang"), (bohr, None), (bohr, "bohr"), (near, "parsec")):
        assert check_length_unit(good, z, unit) == []
    assert check_length_unit(neighbours(0.1 * molecule["R"]), z, "nm") == []
    (finding,) = check_length_unit(bohr, z, "Ang")
    assert "right in Bohr" in finding.evidence
    (finding,) = check_length_unit(near, z, "bohr")
    assert "right in Angstrom" in finding.evidence
    (finding,) = check_length_unit(near, z, "nm")
    assert "Angstrom or Bohr" in finding.evidence


def test_wrapped_atoms(shared):
    dataset = load_dataset(shared("data/emt_cu111.npz"))
    R, L = dataset["R"].copy(), dataset["lattice"]
    R[40:, 3] += L[:, 1]
    R[[100, 200], 5] -= L[:, 0] + L[:, 1]
    (finding,) = check_wrapped(R, Cell(L), dataset["z"])
    assert finding.frames == (40, 100, 101, 200, 201)
    assert finding.atoms == (3, 5)
    assert check_wrapped(R[:40] + np.arange(40)[:, None, None] * [0.7, 0.0, 0.0], Cell(L), dataset["z"]) == []
    varying = np.repeat(L[None], len(R), axis=0)
    assert check_wrapped(R, Cell(varying), dataset["z"]) == [finding]


def test_drift_of_the_centre_of_mass(molecule):
    R = molecule["R"] + np.linspace(0, 40, 500)[:, None, None] * [0.0, 0.6, 0.8]
    (finding,) = diagnose_dataset(changed(molecule, R=R))
    assert finding.cause == "The centre of mass drifts."
    assert finding.level == "note"
    assert finding.frames[0] > 470


def test_duplicates_in_a_dataset(ethanol):
    R, F, E = (ethanol[key].copy() for key in ("R", "F", "E"))
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    for to, source in ((1700, 3), (900, 901)):
        R[to], F[to], E[to] = R[source] @ Q, F[source] @ Q, E[source]
    (finding,) = diagnose_dataset(changed(ethanol, R=R, F=F, E=E))
    assert finding.frames == (901, 1700)
    assert "2 of 2000 geometries" in finding.evidence


@pytest.mark.parametrize("off", [100.0, -5000.0])
def test_outliers_of_labels(ethanol, off):
    E, F = ethanol["E"].copy(), ethanol["F"].copy()
    E[[7, 77]] += off
    F[[8, 1000]] *= 200
    found = {finding.cause: finding for finding in diagnose_dataset(changed(ethanol, E=E, F=F))}
    assert found["Some geometries have energies far from the others."].frames == (7, 77)
    assert found["Some geometries have far larger forces than the others."].frames == (8, 1000)


@pytest.mark.parametrize("name", ["md17_ethanol_2000", "emt_cu111", "qm22_alkane_C14"])
def test_sign_and_units_along_trajectories(name, shared):
    dataset = load_dataset(shared(f"data/{name}.npz"))
    assert causes(changed(dataset, F=-dataset["F"])) == [
        "The force labels seem to have the wrong sign (gradients instead of forces)."
    ]
    if name == "qm22_alkane_C14":
        return
    (finding,) = diagnose_dataset(changed(dataset, F=dataset["F"] * 23.0605))
    assert "different units" in finding.cause
    assert "eV and kcal/mol" in finding.evidence


def test_single_atoms_far_away(ethanol):
    R = ethanol["R"].copy()
    R[[5, 6], 8] += 12.0  # as of a molecule that is wrapped into a box that is not recorded
    found = {finding.cause: finding for finding in diagnose_dataset(changed(ethanol, R=R))}
    finding = found["Single atoms are far from all others in some geometries."]
    assert (finding.frames, finding.atoms) == ((5, 6), (8,))
    assert "whose lattice is not in the dataset" in finding.remedy


def test_findings_come_worst_first(ethanol):
    R = 1e-10 * ethanol["R"] + 1e-8 * np.arange(2000)[:, None, None]
    levels = [finding.level for finding in diagnose_dataset(changed(ethanol, R=R))]
    assert levels[0] == "error"
    assert levels[-1] == "note"
