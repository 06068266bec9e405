"""Random molecules and crystals, groups, parameters, units: trained, and compared with the formula and differences."""

import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.molecules import random_molecules

from fastgdml.permutations import complete_group
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain

ENERGIES = st.floats(-10, 10).map(lambda power: 10.0**power)


@st.composite
def tasks(draw):
    """A task of 3 points, energies in units of any size, and the seed of what else is random."""
    n_atoms, seed = draw(st.integers(2, 12)), draw(st.integers(0, 2**32 - 1))
    length, energy = draw(st.floats(0.6, 2.0)), draw(ENERGIES)  # other lengths are taken for a wrong unit
    rng = np.random.default_rng(seed)
    z = rng.integers(1, 3, n_atoms)
    like = np.flatnonzero(z == z[0])
    perm = np.arange(n_atoms)
    if draw(st.booleans()):  # some like atoms turn
        turned = like[: draw(st.integers(1, 3))]
        perm[turned] = np.roll(turned, 1)
    task = {
        "type": "t",
        "r_unit": "some length",
        "z": z,
        "R_train": length * random_molecules(3, n_atoms, seed),
        "F_train": energy / length * rng.normal(size=(3, n_atoms, 3)),
        "E_train": energy * rng.normal(size=3),
        "idxs_train": np.arange(3),
        "idxs_valid": np.arange(0),
        "md5_train": "",
        "md5_valid": "",
        "sig": draw(st.floats(0.5, 30)) / length,
        "lam": 10.0 ** draw(st.floats(-6, -1)),
        "use_E": True,
        "use_E_cstr": draw(st.booleans()),
        "use_sym": True,
        "perms": complete_group(perm[None]),
    }
    if draw(st.booleans()):
        task["lattice"] = length * (7 * np.eye(3) + rng.uniform(-1, 1, (3, 3)))
    if draw(st.booleans()):  # images of a pair have the same weight
        weights = np.exp(rng.normal(size=n_atoms * (n_atoms - 1) // 2) / 3)
        tables = [reference.pair_permutation_matrix(p) for p in task["perms"]]
        task["desc_weights"] = sum(P @ weights for P in tables) / len(tables)
    return task, length, seed


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(tasks())
def test_trained_models_predict_by_the_formula(drawn):
    task, length, seed = drawn
    n_atoms = len(task["z"])
    model = GDMLTrain(max_processes=1).train(task, solver="closed")
    R = length * random_molecules(2, n_atoms, seed + 1)
    predictor = GDMLPredict(model, max_processes=1)
    E, F = predictor.predict(R)
    F = F.reshape(R.shape)
    expected_E, expected_F = reference.predict(
        R,
        task["R_train"],
        np.asarray(model["alphas_F"]).reshape(3, -1),
        task["perms"],
        float(task["sig"]),
        float(model["std"]),
        float(model["c"]),
        task.get("lattice"),
        model.get("alphas_E"),
        task.get("desc_weights"),
    )
    # The error of a sum is one of its terms, which may cancel: those of coefficients on the scale of the labels.
    scale = float(model["std"]) * max(1.0, np.abs(model["alphas_F"]).max() / length**2)
    assert np.abs(F - expected_F).max() <= 1e-9 * max(np.abs(expected_F).max(), 1e-6 * scale)
    assert np.abs(E - expected_E).max() <= 1e-9 * max(np.abs(expected_E).max(), 1e-6 * scale * length)

    more = GDMLPredict(model, max_processes=3).predict(R)
    np.testing.assert_array_equal(more[0], E)
    np.testing.assert_array_equal(more[1].reshape(R.shape), F)

    # differences in one direction
    step = 1e-4 * length * np.random.default_rng(seed).normal(size=R.shape)
    (up, _), (down, _) = predictor.predict(R + step), predictor.predict(R - step)
    slope = -(F * step).sum(axis=(1, 2))
    size = np.abs(F * step).sum(axis=(1, 2)).max() + 1e-9 * np.abs(E).max()
    assert np.abs((up - down) / 2 - slope).max() <= 1e-3 * size
