"""Predictions with standard deviations in one pass: against the oracle, and against a prediction for each sample."""

import numpy as np
import pytest
from reference import predict
from support.kinds import KINDS
from support.models import make_model, make_samples
from support.molecules import GROUPS, random_molecules, symmetric_group_of_three

from fastgdml.cell import Cell
from fastgdml.descriptor import from_R, jacobian_dot
from fastgdml.engine import Engine
from fastgdml.flat import export_flat
from fastgdml.gpu.predict import GPUPredictor
from fastgdml.predict import GDMLPredict


@pytest.mark.parametrize("energies", [False, True], ids=["forces", "energies"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("n_atoms", "n_train", "n_std"), [(3, 1, 1), (5, 8, 4), (6, 57, 7)])
def test_equals_oracle(group, n_atoms, n_train, n_std, energies, isa):
    perms = GROUPS[group](n_atoms)
    R_train, R = random_molecules(n_train, n_atoms), random_molecules(3, n_atoms, seed=9)
    model, _ = make_model(R_train, perms, energies=energies)
    model |= make_samples(model, n_std)
    _, g = from_R(R_train)
    alphas = np.random.default_rng(5).normal(size=(n_std, n_train, 3 * n_atoms))
    model["std_R_d_desc_alpha"] = np.array([jacobian_dot(g, each) for each in alphas])
    squares_E, squares_F = np.zeros(3), np.zeros((3, n_atoms))
    for s in range(n_std):
        scalars = (model["sig"], model["std"], model["std_c"][s])
        alphas_E = model["std_alphas_E"][s] if energies else None
        E, F = predict(R, R_train, alphas[s], perms, *scalars, alphas_E=alphas_E)
        squares_E += E**2 / n_std
        squares_F += (F**2).mean(axis=2) / n_std
    *_, E_std, F_std = GDMLPredict(model).predict(R, return_std=True)
    np.testing.assert_allclose(E_std, 1.25 * np.sqrt(squares_E), rtol=1e-11)
    np.testing.assert_allclose(F_std, 1.25 * np.sqrt(squares_F), rtol=1e-11)


@pytest.mark.parametrize("n_std", [1, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_equals_a_prediction_for_each_sample(kind, n_std, isa, tmp_path):
    model, R, lattice = KINDS[kind]()
    model |= make_samples(model, n_std)
    predictor = GDMLPredict(model)
    found = predictor.predict(R, lattice=lattice, return_virial=True, return_std=True)
    for ours, plain in zip(found, predictor.predict(R, lattice=lattice, return_virial=True), strict=False):
        np.testing.assert_array_equal(ours, plain)
    cell = None if lattice is None else Cell(lattice, "minimum")
    for engine in (predictor._engine, GPUPredictor.from_model(model, np)):
        one_by_one = Engine.predict_std(engine, R, cell)
        for ours, reference in zip(found[3:], one_by_one[3:], strict=True):
            np.testing.assert_allclose(ours, reference, rtol=1e-10)
    export_flat(tmp_path / "m.fgdml", model)
    flat = GDMLPredict(tmp_path / "m.fgdml").predict(R, lattice=lattice, return_virial=True, return_std=True)
    for ours, reference in zip(flat, found, strict=True):
        np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize("energies", [False, True], ids=["forces", "energies"])
@pytest.mark.parametrize("n_train", [3, 300, 900])
def test_bits_do_not_depend_on_threads_or_batches(n_train, energies, isa):
    model, _ = make_model(random_molecules(n_train, 7), symmetric_group_of_three(7), energies=energies)
    model |= make_samples(model, 5)
    R = random_molecules(5, 7, seed=4).reshape(5, -1)
    expected = GDMLPredict(model, max_processes=1).predict(R, return_std=True)
    for n_threads in (2, 5, 8):
        predictor = GDMLPredict(model, max_processes=n_threads)
        for part in (slice(None), slice(0, 1), slice(1, 3), slice(3, 5)):
            for ours, reference in zip(predictor.predict(R[part], return_std=True), expected, strict=True):
                np.testing.assert_array_equal(ours, reference[part])


def test_no_geometry_is_no_error():
    model, _ = make_model(random_molecules(5, 4), GROUPS["one"](4))
    E, F, E_std, F_std = GDMLPredict(model | make_samples(model, 2)).predict(np.empty((0, 12)), return_std=True)
    assert (E.shape, F.shape, E_std.shape, F_std.shape) == ((0,), (0, 12), (0,), (0, 4))
