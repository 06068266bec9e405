"""Prediction on a device. Skipped, with the reason, where there is none."""

import numpy as np
import pytest
import reference as oracle
from support.gpu_models import CELLS, SKEWED, assert_close, make_model, model_of, rounding_of
from support.molecules import GROUPS, random_molecules, symmetric_group_of_three

cupy = pytest.importorskip("cupy", reason="CuPy is not installed: needed, with a device", exc_type=ImportError)

from fastgdml.backend import array_module  # noqa: E402
from fastgdml.cell import Cell  # noqa: E402
from fastgdml.descriptor import from_R  # noqa: E402
from fastgdml.errors import DataError, UsageError  # noqa: E402
from fastgdml.gpu import bulk as gpu_bulk  # noqa: E402
from fastgdml.gpu import descriptor as gpu_descriptor  # noqa: E402
from fastgdml.gpu import predict as gpu_predict  # noqa: E402
from fastgdml.gpu import slices  # noqa: E402
from fastgdml.gpu.predict import GPUPredictor  # noqa: E402
from fastgdml.predict import GDMLPredict  # noqa: E402


def device_problem():
    try:
        array_module("gpu")
    except UsageError as error:
        return str(error)
    return ""


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(device_problem()), reason=device_problem() or "-"),
    # What other releases of CuPy and NumPy warn of is no fault of the results.
    pytest.mark.filterwarnings("default"),
]


class Way:
    """One of the ways that a prediction can take."""

    def __init__(self, name, monkeypatch):
        self.device_data = "device data" in name
        if "bulk" in name:
            monkeypatch.setattr(gpu_predict, "_FUSED_TERMS", 1)
        else:
            monkeypatch.setattr(gpu_predict, "_FUSED_TERMS", 2**62)

    def predict(self, predictor, R, *args, **options):
        results = predictor.predict(cupy.asarray(R) if self.device_data else R, *args, **options)
        for result in results:
            assert isinstance(result, cupy.ndarray if self.device_data else np.ndarray)
        return results


@pytest.fixture(params=["fused", "fused, device data", "bulk", "bulk, device data"])
def way(request, monkeypatch):
    return Way(request.param, monkeypatch)


@pytest.mark.parametrize("cell", CELLS)
def test_descriptors(cell):
    R = random_molecules(100, 12)
    ours = gpu_descriptor.from_R(R, CELLS[cell], xp=cupy)
    assert all(isinstance(array, cupy.ndarray) for array in ours)
    assert_close(ours, from_R(R, CELLS[cell]), 1e-14)
    R[77, 3] = R[77, 9]
    with pytest.raises(DataError, match=r"geometry 77 .*atoms 3 and 9"):
        gpu_descriptor.from_R(R, CELLS[cell], xp=cupy)


# ---- results


def test_predictions_equal_sgdml_and_cpu(reference, way):
    model = model_of(reference)
    R = reference["R_test"].reshape(len(reference["R_test"]), -1)
    predictor, scale = GPUPredictor.from_model(model), np.abs(reference["F_pred"]).max()
    energies, forces = rounding_of(reference)
    for _ in range(3):  # the kernels, then a graph twice
        results = way.predict(predictor, R, return_virial=True)
        assert_close(results[1:2], [reference["F_pred"]], 1e-9)
        np.testing.assert_allclose(
            [float(e) for e in results[0]], reference["E_pred"], rtol=0, atol=1e-9 * scale + energies
        )
        expected = GDMLPredict(model).predict(R, return_virial=True)
        assert_close(results, expected, 1e-10, (energies, forces, energies))


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("n_atoms", "n_train"), [(3, 1), (5, 8), (6, 17)])
def test_predictions_equal_oracle(group, n_atoms, n_train, energies, way):
    perms = GROUPS[group](n_atoms)
    model = make_model(n_train, perms, energies=energies)
    R_train, R = random_molecules(n_train, n_atoms), random_molecules(5, n_atoms, seed=9)
    parameters = (model["sig"], model["std"], model["c"])
    E_ref, F_ref = oracle.predict(R, R_train, model["alphas_F"], perms, *parameters, alphas_E=model.get("alphas_E"))
    assert_close(way.predict(GPUPredictor.from_model(model), R), (E_ref, F_ref.reshape(5, -1)), 1e-11, (1e-11, 0.0))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("group", ["one", "all move", "three atoms"])
@pytest.mark.parametrize(("n_atoms", "n_train", "n_geo"), [(3, 1, 4), (9, 200, 300), (21, 131, 70), (42, 77, 33)])
def test_predictions_equal_cpu(group, n_atoms, n_train, n_geo, cell, way):
    model = make_model(n_train, GROUPS[group](n_atoms), CELLS[cell], energies=True, sig=10.0)
    R = random_molecules(n_geo, n_atoms, seed=5).reshape(n_geo, -1)
    results = way.predict(GPUPredictor.from_model(model), R, return_virial=True)
    assert_close(results, GDMLPredict(model).predict(R, return_virial=True))


def test_predictions_in_other_cells_equal_cpu(way):
    model = make_model(50, symmetric_group_of_three(9), CELLS["minimum"], sig=10.0)
    predictor, expected = GPUPredictor.from_model(model), GDMLPredict(model)
    R = random_molecules(7, 9, seed=1).reshape(7, -1)
    for lattice in (1.1 * SKEWED, np.diag([6.0, 6.1, 6.2]), [(1 + 0.01 * k) * SKEWED for k in range(7)]):
        for _ in range(3):
            results = way.predict(predictor, R, cell=Cell(lattice), return_virial=True)
            assert_close(results, expected.predict(R, lattice=lattice, return_virial=True))


def test_forces_are_derivatives(way):
    model = make_model(50, symmetric_group_of_three(9), CELLS["minimum"], energies=True, sig=10.0)
    predictor = GPUPredictor.from_model(model)
    r = random_molecules(1, 9, seed=4).ravel()
    steps = 1e-4 * np.eye(27)
    E_plus, E_minus = (np.array([float(e) for e in way.predict(predictor, r + s)[0]]) for s in (steps, -steps))
    assert_close(way.predict(predictor, r, return_E=False), [-(E_plus - E_minus)[None] / 2e-4], 1e-6)


def test_near_training_points_nothing_is_lost(way):
    model = make_model(20, symmetric_group_of_three(6), energies=True, sig=20.0)
    R_train = random_molecules(20, 6)
    for shift in (0.0, 1e-9, 1e-5):
        R = (R_train + shift * R_train**2).reshape(20, -1)
        assert_close(way.predict(GPUPredictor.from_model(model), R), GDMLPredict(model).predict(R))


@pytest.mark.parametrize("n_geo", [1, 2, 3, 16, 64, 65, 1000])
def test_any_number_of_geometries(n_geo):
    # With the true crossover between the ways.
    model = make_model(300, symmetric_group_of_three(9), sig=10.0)
    predictor, expected = GPUPredictor.from_model(model), GDMLPredict(model)
    for k in range(3):
        R = random_molecules(n_geo, 9, seed=k).reshape(n_geo, -1)
        assert_close(predictor.predict(R), expected.predict(R))


def test_results_are_reproducible(way):
    predictor = GPUPredictor.from_model(make_model(500, symmetric_group_of_three(9), energies=True))
    R = random_molecules(16, 9, seed=2)
    first = [result.tobytes() for result in way.predict(predictor, R)]
    for _ in range(5):
        assert [result.tobytes() for result in way.predict(predictor, R)] == first


def test_unusable_geometries_are_named(way):
    predictor = GPUPredictor.from_model(make_model(30, symmetric_group_of_three(9), CELLS["minimum"]))
    R = random_molecules(40, 9, seed=2)
    R[33, 1] = R[33, 0]
    with pytest.raises(DataError, match=r"geometry 33 .*atoms 0 and 1"):
        way.predict(predictor, R)
    R[7, 4, 0] = np.nan
    with pytest.raises(DataError, match=r"Geometry 7 .*not finite.*atom 4"):
        way.predict(predictor, R)


def test_new_coefficients(way):
    perms = symmetric_group_of_three(9)
    predictor = GPUPredictor.from_model(make_model(30, perms))
    R = random_molecules(3, 9, seed=2)
    for _ in range(3):
        way.predict(predictor, R)
    for energies in (True, False):
        other = make_model(30, perms, energies=energies, seed=8)
        predictor = predictor.with_coefficients(other["R_d_desc_alpha"], other.get("alphas_E"))
        for _ in range(3):
            assert_close(way.predict(predictor, R), GDMLPredict(other).predict(R.reshape(3, -1)))


# ---- where data lie


@pytest.mark.parametrize("terms", [2**62, 1])
def test_results_stay_where_the_data_are(terms, monkeypatch):
    monkeypatch.setattr(gpu_predict, "_FUSED_TERMS", terms)
    predictor = GPUPredictor.from_model(make_model(20, symmetric_group_of_three(5)))
    R = random_molecules(8, 5, seed=3).reshape(8, -1)
    on_host, on_device = predictor.predict(R), predictor.predict(cupy.asarray(R))
    assert all(type(array) is np.ndarray for array in on_host)
    assert all(isinstance(array, cupy.ndarray) for array in on_device)
    assert_close(on_device, on_host, 1e-13)

    class Interface:
        """An array of another library on the device."""

        def __init__(self, array, name):
            setattr(self, name, getattr(array, name))
            self.__dlpack_device__ = array.__dlpack_device__

    data = cupy.asarray(R)
    for other in (Interface(data, "__cuda_array_interface__"), Interface(data, "__dlpack__")):
        results = predictor.predict(other)
        assert all(isinstance(array, cupy.ndarray) for array in results)
        assert_close(results, on_host, 1e-13)
    single = predictor.predict(cupy.asarray(R, dtype=cupy.float32))
    assert single[0].dtype == single[1].dtype == cupy.float64


def test_other_streams(way):
    model = make_model(200, symmetric_group_of_three(9), sig=10.0)
    predictor, R = GPUPredictor.from_model(model), random_molecules(50, 9, seed=2).reshape(50, -1)
    expected = GDMLPredict(model).predict(R)
    for _ in range(10):
        with cupy.cuda.Stream(non_blocking=True):
            assert_close(way.predict(predictor, R), expected)


def test_tensors_of_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device: install a build for CUDA")
    model = make_model(20, symmetric_group_of_three(5))
    R = random_molecules(8, 5, seed=3).reshape(8, -1)
    results = GPUPredictor.from_model(model).predict(torch.tensor(R, device="cuda"))
    assert_close(results, GDMLPredict(model).predict(R))
    assert torch.from_dlpack(results[1]).is_cuda


@pytest.mark.parametrize("virials", [False, True])
@pytest.mark.parametrize("cell", ["molecule", "minimum"])
def test_repeated_calls_are_a_graph(cell, virials, monkeypatch):
    # Without the graph results are right, too: that there is one must be looked at.
    monkeypatch.setattr(gpu_predict, "_FUSED_TERMS", 2**62)
    model = make_model(30, symmetric_group_of_three(9), CELLS[cell])
    predictor, expected = GPUPredictor.from_model(model), GDMLPredict(model)
    for k in range(4):
        R = random_molecules(2, 9, seed=k).reshape(2, -1)
        assert_close(predictor.predict(R, return_virial=virials), expected.predict(R, return_virial=virials))
    (call,) = predictor._replicas[cupy.cuda.Device().id].fused._calls.values()
    assert isinstance(call._graph, cupy.cuda.Graph)


def test_a_new_predictor_is_ready_for_other_streams():
    # Tables that are still on their way when the first batch reads them, on a stream that does not wait for them.
    R = random_molecules(40, 9, seed=2).reshape(40, -1)
    for seed in range(5):
        model = make_model(300, symmetric_group_of_three(9), seed=seed)
        predictor = GPUPredictor.from_model(model)
        assert_close(predictor._predict_bulk(40, _batches_of(R), None, False)[:2], GDMLPredict(model).predict(R))


def _batches_of(R):
    return lambda begin, end: gpu_descriptor.descriptors(cupy.asarray(R[begin:end].reshape(-1, 9, 3)), xp=cupy)


# ---- mixed precision


def test_mixed_predictions_of_reference_cases(reference, way):
    model = model_of(reference)
    R = reference["R_test"].reshape(len(reference["R_test"]), -1)
    predictor = GPUPredictor.from_model(model, precision="mixed")
    for _ in range(3):
        results = way.predict(predictor, R, return_virial=True)
        assert_close(results[1:], GDMLPredict(model).predict(R, return_virial=True)[1:], 1e-7)
        np.testing.assert_allclose(
            [float(e) for e in results[0]],
            GDMLPredict(model).predict(R)[0],
            rtol=0,
            atol=1e-6 * np.abs(reference["F_pred"]).max(),
        )


@pytest.mark.parametrize("shape", [(5, 7, 36), (300, 400, 210), (64, 128, 2000)])
def test_products_of_digits_have_the_bits_of_the_processor(shape):
    n, m, k = shape
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(n, k)), rng.normal(size=(m, k)) * 10.0 ** rng.uniform(-9, 9, (m, 1))
    ours = slices.multiply(cupy.asarray(a), slices.Sliced(cupy.asarray(b), cupy), cupy)
    np.testing.assert_array_equal(ours.get(), slices.multiply(a, slices.Sliced(b, np), np))


# ---- memory and devices


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_small_batches(batch, monkeypatch):
    monkeypatch.setattr(gpu_predict, "_FUSED_TERMS", 1)
    predictor = GPUPredictor.from_model(make_model(30, symmetric_group_of_three(9)))
    R = random_molecules(40, 9, seed=2)
    for data in (R, cupy.asarray(R)):
        whole = predictor.predict(R)
        with monkeypatch.context() as patch:
            patch.setattr(gpu_bulk.Bulk, "batch_size", lambda self, n_geo, n_at_once: batch)
            assert_close(predictor.predict(data), whole, 1e-12)


def test_smaller_batches_when_memory_runs_out(monkeypatch):
    monkeypatch.setattr(gpu_predict, "_FUSED_TERMS", 1)
    predictor = GPUPredictor.from_model(make_model(30, symmetric_group_of_three(9)), devices=[0])
    R = random_molecules(40, 9, seed=2)
    whole = predictor.predict(R)
    original, sizes = gpu_bulk.Bulk.predict, []

    def limited(self, x, g, virials):
        sizes.append(len(x))
        if len(x) > 10:
            raise cupy.cuda.memory.OutOfMemoryError(1, 1, 1)
        return original(self, x, g, virials)

    monkeypatch.setattr(gpu_bulk.Bulk, "predict", limited)
    assert_close(predictor.predict(R), whole, 1e-12)
    assert sizes == [40, 20, 10, 10, 10, 10]


def test_a_small_memory_pool_is_enough():
    # Real failures of the allocator, not pretended ones.
    predictor = GPUPredictor.from_model(make_model(500, symmetric_group_of_three(9)), devices=[0])
    R = random_molecules(4000, 9, seed=2)
    whole = predictor.predict(R)
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.get_limit()
    pool.set_limit(size=pool.used_bytes() + 64 * 2**20)
    try:
        limited = predictor.predict(R)
    finally:
        pool.set_limit(size=before)
    assert_close(limited, whole, 1e-12)


def test_several_devices(monkeypatch):
    n_devices = cupy.cuda.runtime.getDeviceCount()
    if n_devices < 2:
        pytest.skip("this machine has one device: the test needs two")
    model = make_model(100, symmetric_group_of_three(9), sig=10.0)
    predictor, expected = GPUPredictor.from_model(model), GDMLPredict(model)
    R = random_molecules(5000, 9, seed=2).reshape(5000, -1)
    monkeypatch.setattr(gpu_predict, "_FUSED_TERMS", 1)
    monkeypatch.setattr(gpu_bulk.Bulk, "batch_size", lambda self, n_geo, n_at_once: 100)
    assert_close(predictor.predict(R), expected.predict(R))
    assert set(predictor._replicas) == set(range(n_devices))
    for terms in (1, 2**62):
        monkeypatch.setattr(gpu_predict, "_FUSED_TERMS", terms)
        with cupy.cuda.Device(n_devices - 1):
            data = cupy.asarray(R[:50])
        results = predictor.predict(data)
        assert {result.device.id for result in results} == {n_devices - 1}
        assert_close(results, expected.predict(R[:50]))
