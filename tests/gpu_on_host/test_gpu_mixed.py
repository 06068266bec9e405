"""Mixed precision of the GPU backend, with NumPy and with the stand-in for CuPy.

The sums of float32 products are integers up to 2^24, so NumPy's float32 gives the bits that a device gives. The
fused kernel sums in pairs of floats; it is run on the processor.
"""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gpu_models import CELLS, make_model, model_of
from support.molecules import GROUPS, random_molecules, symmetric_group_of_three

from fastgdml.backend import PRECISIONS
from fastgdml.elements import MASSES
from fastgdml.errors import UsageError
from fastgdml.gpu import predict as gpu_predict
from fastgdml.gpu import slices
from fastgdml.gpu.predict import GPUPredictor
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain


def exact(a, b):
    """A B^T in extended precision."""
    return np.einsum("ik,jk->ij", a.astype(np.longdouble), b.astype(np.longdouble))


@settings(deadline=None)
@given(st.integers(1, 450), st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_errors_are_within_the_bound(n_columns, seed, spread):
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=(n, n_columns)) * 10.0 ** rng.uniform(-spread, spread, (n, 1)) for n in (5, 4))
    b *= rng.uniform(size=n_columns) ** 8  # columns of all sizes
    product = slices.multiply(a, slices.Sliced(b, np), np)
    bound = slices.error_bound(a, b)
    assert (np.abs(product - exact(a, b)) <= bound + 1e-15 * np.abs(product)).all()
    largest = n_columns * np.outer(np.abs(a).max(axis=1), np.abs(b).max(axis=1))
    assert (bound <= 1.2e-13 * largest).all()


def test_the_worst_digits_add_up_exactly():
    # All digits are as large as they get, and all sums as long.
    n_columns, base, half = slices._MAX_COLUMNS, 2.0**slices.BITS, 2.0 ** (slices.BITS - 1)
    top = base ** (slices.N_SLICES - 1)
    lowest = half * sum(base**s for s in range(slices.N_SLICES - 1))
    for value in ((half - 1) * top - lowest, half * top - 1):
        matrix = np.full((1, n_columns), -value)
        sliced = slices.Sliced(matrix, np)
        assert np.abs(sliced.parts[0][0]).max() == half
        product = slices.multiply(matrix, sliced, np)
        assert np.abs(product - exact(matrix, matrix)) <= slices.error_bound(matrix, matrix)
    assert slices.N_SLICES * n_columns * 2 ** (2 * slices.BITS - 2) <= 2**24


@pytest.mark.parametrize("n_columns", [1, 170, 171, 1000])
def test_order_and_company_change_no_bit(n_columns):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, n_columns)), rng.normal(size=(3, n_columns))
    sliced = slices.Sliced(b, np)
    whole = slices.multiply(a, sliced, np)
    np.testing.assert_array_equal(slices.multiply(a[2:3], sliced, np), whole[2:3])
    if n_columns <= slices._MAX_COLUMNS:  # columns of a part can come in any order
        order = rng.permutation(n_columns)
        np.testing.assert_array_equal(slices.multiply(a[:, order], slices.Sliced(b[:, order], np), np), whole)


def test_zeros_and_what_is_not_finite():
    a, b = np.zeros((2, 5)), np.ones((3, 5))
    np.testing.assert_array_equal(slices.multiply(a, slices.Sliced(b, np), np), np.zeros((2, 3)))
    np.testing.assert_array_equal(slices.multiply(b, slices.Sliced(a, np), np), np.zeros((3, 2)))


@pytest.fixture(params=["NumPy", "fused", "bulk"])
def module(request, monkeypatch):
    """The array module for each way of a prediction."""
    monkeypatch.setattr(gpu_predict, "_FUSED_TERMS", 1 if request.param == "bulk" else 2**26)
    return np if request.param == "NumPy" else request.getfixturevalue("host_cupy")


def test_predictions_of_reference_cases(reference, module):
    model = model_of(reference)
    R = reference["R_test"][:4].reshape(4, -1)
    E, F, virial = GPUPredictor.from_model(model, module, precision="mixed").predict(R, return_virial=True)
    E_ref, F_ref, virial_ref = GDMLPredict(model).predict(R, return_virial=True)
    scale = np.abs(F_ref).max()
    np.testing.assert_allclose(F, F_ref, rtol=0, atol=1e-7 * scale)
    # Energies, in units of the force scale and an angstrom.
    np.testing.assert_allclose(E, E_ref, rtol=0, atol=1e-6 * scale)
    np.testing.assert_allclose(virial, virial_ref, rtol=0, atol=1e-7 * np.abs(virial_ref).max())


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("cell", ["molecule", "minimum"])
def test_predictions_equal_cpu(group, cell, energies, module):
    model = make_model(9, GROUPS[group](5), CELLS[cell], energies=energies)
    R = random_molecules(4, 5, seed=3).reshape(4, -1)
    expected = GDMLPredict(model).predict(R, return_virial=True)
    results = GPUPredictor.from_model(model, module, precision="mixed").predict(R, return_virial=True)
    for one, other in zip(results, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-8 * np.abs(other).max())


def test_new_coefficients(module):
    perms = symmetric_group_of_three(5)
    predictor = GPUPredictor.from_model(make_model(9, perms), module, precision="mixed")
    other = make_model(9, perms, seed=3)
    predictor = predictor.with_coefficients(other["R_d_desc_alpha"])
    R = random_molecules(2, 5, seed=3).reshape(2, -1)
    expected = GDMLPredict(other).predict(R)[1]
    np.testing.assert_allclose(predictor.predict(R)[1], expected, rtol=0, atol=1e-8 * np.abs(expected).max())


def test_forces_are_derivatives_of_energies(ethanol_model, ethanol):
    predictor = GPUPredictor.from_model(ethanol_model, np, precision="mixed")
    r, step = np.asarray(ethanol["R"])[7].ravel(), 1e-3
    steps = step * np.eye(r.size)
    E_plus, E_minus = (predictor.predict(r + s)[0] for s in (steps, -steps))
    F = predictor.predict(r[None])[1][0]
    difference = -(E_plus - E_minus) / (2 * step)
    # The truncation of the difference, and the noise of two energies.
    np.testing.assert_allclose(F, difference, rtol=0, atol=1e-4 * np.abs(F).max())


def test_energy_is_conserved(ethanol):
    """Velocity Verlet, 2000 steps of 0.5 fs: the total energy moves no more than in double precision."""
    task = GDMLTrain().create_task(ethanol, 60, ethanol, 40, sig=10, seed=3)
    model = GDMLTrain().train(task)
    drift = {precision: nve(model, ethanol, precision) for precision in ("double", "mixed")}
    (total, forces), (other, other_forces) = drift["double"], drift["mixed"]
    assert np.abs(forces[0] - other_forces[0]).max() < 1e-6 * np.abs(forces[0]).max()
    fluctuation = total.std()
    assert other.std() < 1.05 * fluctuation
    # The mean of the last quarter against that of the first: a drift would show there.
    shifts = [abs(e[-len(e) // 4 :].mean() - e[: len(e) // 4].mean()) for e in (total, other)]
    assert shifts[1] < shifts[0] + 0.1 * fluctuation


def nve(model, dataset, precision):
    """Total energies in kcal/mol, and forces, of a run that starts at a geometry of the dataset."""
    predictor = GPUPredictor.from_model(model, np, precision=precision)
    m = np.repeat([MASSES[int(z)] for z in dataset["z"]], 3)
    # kcal/mol and angstrom, u, fs: acceleration = force / mass times this.
    unit, dt = 4.184e-4, 0.5
    r, rng = np.asarray(dataset["R"])[0].ravel().copy(), np.random.default_rng(0)
    v = rng.normal(size=r.size) * np.sqrt(0.0019872 * 300 * unit / m)
    v -= np.tile((m * v).reshape(-1, 3).sum(axis=0) / m[::3].sum(), len(m) // 3)
    E, F = predictor.predict(r)
    total, forces = [], [F]
    for _ in range(2000):
        v += 0.5 * dt * unit * F[0] / m
        r = r + dt * v
        E, F = predictor.predict(r)
        v += 0.5 * dt * unit * F[0] / m
        total.append(E[0] + 0.5 * (m * v * v).sum() / unit)
        forces.append(F)
    return np.array(total), forces


def test_unknown_precisions_are_refused(ethanol_model):
    for make in (partial(GPUPredictor.from_model, xp=np), GDMLPredict):
        with pytest.raises(UsageError, match=r"no precision 'single': choose one of double, mixed"):
            make(ethanol_model, precision="single")
    for precision in PRECISIONS:
        GPUPredictor.from_model(ethanol_model, np, precision=precision)
