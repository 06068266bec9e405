"""Second derivatives: against differences of the forces for all kinds of models, and what they must keep exactly."""

import ctypes

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from support.crystals import springs
from support.kinds import KINDS, molecule, periodic
from support.models import make_model
from support.molecules import cyclic_group, random_molecules, symmetric_group_of_three

from fastgdml.cell import Cell
from fastgdml.dataset import create_dataset
from fastgdml.drivers.common import c_library
from fastgdml.errors import DataError, UsageError
from fastgdml.gpu.predict import GPUPredictor
from fastgdml.model import load_model
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain


def difference(forces, r, h):
    """-dF/dR of one geometry r (3 N,): central differences of sixth order, error h^6 and rounding / h."""
    steps = h * np.eye(r.size)
    slopes = [(forces(r + k * steps) - forces(r - k * steps)) / (2 * k * h) for k in (1, 2, 3)]
    return -(15 * slopes[0] - 6 * slopes[1] + slopes[2]) / 10


@pytest.mark.parametrize("kind", KINDS)
def test_equals_differences_of_the_forces(kind, isa):
    model, R, lattice = KINDS[kind]()
    predictor = GDMLPredict(model)
    H = predictor.hessian(R, lattice=lattice)
    for h, r in zip(H, R.reshape(len(R), -1), strict=True):
        reference = difference(lambda steps: predictor.predict(steps, lattice=lattice)[1], r, 2e-3 / model["sig"])
        np.testing.assert_allclose(h, reference, rtol=0, atol=1e-6 * np.abs(reference).max())
    on_device = GPUPredictor.from_model(model, np)
    cell = None if lattice is None else Cell(lattice, "minimum")
    for ours, theirs in zip(predictor.predict_with_hessian(R, lattice), on_device.hessian(R, cell), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-10 * np.abs(ours).max())


@pytest.mark.parametrize("kind", KINDS)
def test_is_symmetric_and_moves_nothing(kind):
    model, R, lattice = KINDS[kind]()
    H = GDMLPredict(model).hessian(R, lattice=lattice)
    np.testing.assert_array_equal(H, H.transpose(0, 2, 1))
    translations = np.tile(np.eye(3), (R.shape[1], 1))
    np.testing.assert_allclose(H @ translations, 0, atol=1e-12 * np.abs(H).max() * R.shape[1])


def test_a_training_point_is_no_exception():
    """There the distance, by which the formula divides, is 0."""
    model, _, _ = molecule(n_train=5, energies=True)
    r = random_molecules(5, 6)[3]
    predictor = GDMLPredict(model)
    reference = difference(lambda steps: predictor.predict(steps)[1], r.ravel(), 1e-3)
    # the third derivative of the Matern function jumps: differences have an error of order h
    np.testing.assert_allclose(predictor.hessian(r)[0], reference, rtol=0, atol=1e-3 * np.abs(reference).max())
    assert np.isfinite(predictor.hessian(r)).all()


@pytest.mark.parametrize("energies", [False, True], ids=["forces", "energies"])
@pytest.mark.parametrize("n_train", [3, 300, 1500])
def test_bits_do_not_depend_on_threads_or_batches(n_train, energies, isa):
    perms = symmetric_group_of_three(7)
    model, _ = make_model(random_molecules(n_train, 7), perms, energies=energies)
    R = random_molecules(5, 7, seed=4).reshape(5, -1)
    alone = GDMLPredict(model, max_processes=1)
    expected = alone.predict_with_hessian(R)
    for ours, plain in zip(expected, alone.predict(R), strict=False):
        np.testing.assert_array_equal(ours, plain)
    for n_threads in (2, 5, 8):
        predictor = GDMLPredict(model, max_processes=n_threads)
        for part in (slice(None), slice(0, 1), slice(1, 3), slice(3, 5)):
            for ours, reference in zip(predictor.predict_with_hessian(R[part]), expected, strict=True):
                np.testing.assert_array_equal(ours, reference[part])


def stationary(predictor, r, free=slice(None)):
    """A place without force on the free coordinates, by Newton's method; motions that cost nothing are left out."""
    r = r.ravel().copy()
    for _ in range(200):
        _, (f,), (H,) = predictor.predict_with_hessian(r)
        if np.abs(f[free]).max() < 1e-7:
            return r
        curvature, modes = np.linalg.eigh(H[free, free])
        stiff = np.abs(curvature) > 1e-3 * np.abs(curvature).max()
        step = modes[:, stiff] @ (modes[:, stiff].T @ f[free] / np.abs(curvature[stiff]))
        r[free] += step * min(1.0, 0.05 / np.abs(step).max())
    raise AssertionError(f"Newton's method did not converge: {np.abs(f[free]).max()}")


def test_six_zero_modes_of_a_molecule(ethanol_model, ethanol):
    predictor = GDMLPredict(ethanol_model)
    r = stationary(predictor, ethanol["R"][0])
    curvature = np.sort(np.abs(np.linalg.eigvalsh(predictor.hessian(r)[0])))
    assert curvature[5] < 1e-6 < 1.0 < curvature[6]


@pytest.mark.parametrize("heights", [[0.0, 2.0], [0.0, 2.0, 4.1]], ids=["two atoms", "three atoms"])
def test_five_zero_modes_of_a_linear_molecule(heights):
    places = np.array([[0.0, 0.0, z] for z in heights])
    R = places + np.random.default_rng(0).uniform(-0.2, 0.2, (60, *places.shape))
    E, F = springs(R, None)
    dataset = create_dataset("chain", "morse", [6, 7, 8][: len(places)], R, F, E)
    train = GDMLTrain()
    predictor = GDMLPredict(train.train(train.create_task(dataset, 40, dataset, 10, sig=5, use_sym=False, seed=0)))
    r = stationary(predictor, places, slice(2, None, 3))
    assert np.abs(predictor.predict(r)[1]).max() < 1e-7  # by symmetry, no force across
    curvature = np.sort(np.abs(np.linalg.eigvalsh(predictor.hessian(r)[0])))
    assert curvature[4] < 1e-5 < 1e-2 < curvature[5]


def test_three_zero_modes_in_a_crystal():
    model, R, _ = periodic("minimum")
    curvature = np.sort(np.abs(np.linalg.eigvalsh(GDMLPredict(model).hessian(R[0])[0])))
    assert curvature[2] < 1e-10 * curvature[-1] < curvature[3]


def test_rotation_turns_and_permutations_permute(ethanol_model, ethanol):
    predictor = GDMLPredict(ethanol_model)
    r = ethanol["R"][78]
    turn = Rotation.from_rotvec([0.3, -1.2, 2.0]).as_matrix()
    H = predictor.hessian(r)[0].reshape(9, 3, 9, 3)
    scale = 1e-9 * np.abs(H).max()
    turned = predictor.hessian(r @ turn.T + 3.0)[0].reshape(H.shape)
    np.testing.assert_allclose(turned, np.einsum("ij,ajbk,lk->aibl", turn, H, turn), rtol=0, atol=scale)
    for perm in ethanol_model["perms"]:
        permuted = predictor.hessian(r[perm])[0].reshape(H.shape)
        np.testing.assert_allclose(permuted, H[perm][:, :, perm], rtol=0, atol=scale)


@pytest.mark.parametrize("molecule", ["ethanol", "aspirin"])
def test_models_of_the_authors(shared, molecule):
    model = load_model(shared(f"data/legacy_model_{molecule}_sgdml2018.npz"))
    with np.load(shared(f"data/md17_{molecule}.npz")) as data:
        r = data["R"][10].ravel()
    predictor = GDMLPredict(model)
    # Coefficients that nearly cancel round forces to 1e-9 of the Hessian, so steps must be long.
    reference = difference(lambda steps: predictor.predict(steps)[1], r, 1e-2)
    np.testing.assert_allclose(predictor.hessian(r)[0], reference, rtol=0, atol=1e-6 * np.abs(reference).max())


def test_a_group_of_a_hundred_permutations(isa):
    model, _ = make_model(random_molecules(40, 25), cyclic_group(25, 25), energies=True)
    predictor = GDMLPredict(model)
    r = random_molecules(1, 25, seed=2).ravel()
    reference = difference(lambda steps: predictor.predict(steps)[1], r, 1e-3)
    np.testing.assert_allclose(predictor.hessian(r)[0], reference, rtol=0, atol=1e-6 * np.abs(reference).max())


def test_input_is_checked_as_for_predict():
    model, R, _ = molecule()
    predictor = GDMLPredict(model)
    assert predictor.hessian(np.empty((0, 18))).shape == (0, 18, 18)
    assert predictor.hessian(R[0]).shape == (1, 18, 18)
    with pytest.raises(DataError, match="6 atoms"):
        predictor.hessian(np.ones(17))
    broken = R.copy()
    broken[1, 0] = broken[1, 1]
    with pytest.raises(DataError, match="geometry 1"):
        predictor.hessian(broken)
    with pytest.raises(DataError, match="geometry 1"):
        GPUPredictor.from_model(model, np).hessian(broken)
    with pytest.raises(UsageError, match="without lattice"):
        predictor.hessian(R, lattice=np.eye(3))
    several, R, _ = KINDS["any cell"]()
    with pytest.raises(UsageError, match="lattice"):
        GDMLPredict(several).hessian(R)


@pytest.mark.parametrize("kind", ["energy constraints", "nearest image", "any cell"])
def test_the_c_library_gives_the_same_bits(kind):
    model, R, lattice = KINDS[kind]()
    predictor = GDMLPredict(model)
    expected = predictor.predict_with_hessian(R, lattice)
    library, n_coord = c_library(), R[0].size
    pointer = ctypes.c_void_p
    library.fastgdml_hessian.argtypes = [pointer, ctypes.c_int64, *[pointer] * 5, ctypes.c_int]
    r = np.ascontiguousarray(R)
    cell = None if lattice is None else np.ascontiguousarray(lattice)
    for n_threads in (1, 3):
        E, F, H = np.empty(len(R)), np.empty((len(R), n_coord)), np.empty((len(R), n_coord, n_coord))
        where = None if cell is None else cell.ctypes.data
        outputs = [array.ctypes.data for array in (E, F, H)]
        arguments = (predictor.native.address, len(R), r.ctypes.data, where)
        assert library.fastgdml_hessian(*arguments, *outputs, n_threads) == 0
        for ours, reference in zip((E, F, H), expected, strict=True):
            np.testing.assert_array_equal(ours, reference)
        H[:] = 0
        assert library.fastgdml_hessian(*arguments, None, None, outputs[2], n_threads) == 0
        np.testing.assert_array_equal(H, expected[2])
        assert library.fastgdml_hessian(*arguments, None, None, None, n_threads) == 1
        assert b"hessian is NULL" in library.fastgdml_last_error()
