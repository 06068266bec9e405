"""Prediction of the GPU backend: with NumPy as its array module, and with its CUDA kernels run on the processor."""

import contextlib
import gc
import logging
import threading
import types

import cuda_on_host
import numpy as np
import pytest
import reference as oracle
from support.gpu_models import CELLS, SKEWED, assert_close, make_model, model_of, rounding_of
from support.molecules import GROUPS, random_molecules, symmetric_group_of_three

from fastgdml import descriptor
from fastgdml.cell import Cell
from fastgdml.errors import DataError, InsufficientMemoryError, UsageError
from fastgdml.gpu import arrays, fused
from fastgdml.gpu import batches as gpu_batches
from fastgdml.gpu import bulk as gpu_bulk
from fastgdml.gpu import descriptor as gpu_descriptor
from fastgdml.gpu import predict as gpu_predict
from fastgdml.gpu.predict import GPUPredictor
from fastgdml.predict import GDMLPredict


class Way:
    """One of the ways that a prediction can take."""

    def __init__(self, name, monkeypatch):
        self.device_data = "device data" in name
        self.xp = np
        if name != "NumPy":
            if cuda_on_host.compiler() is None:
                pytest.skip("there is no g++, which compiles CUDA kernels for the processor: install it")
            self.xp = cuda_on_host.host_cupy()
        if "bulk" in name:
            monkeypatch.setattr(gpu_predict, "_FUSED_TERMS", 1)

    def predictor(self, model):
        return GPUPredictor.from_model(model, self.xp)

    def predict(self, predictor, R, *args, **options):
        results = predictor.predict(self.xp.asarray(R) if self.device_data else R, *args, **options)
        for result in results:
            assert isinstance(result, self.xp.ndarray if self.device_data else np.ndarray)
        return [result.get() if self.device_data else result for result in results]


@pytest.fixture(params=["NumPy", "fused", "fused, device data", "bulk", "bulk, device data"])
def way(request, monkeypatch):
    return Way(request.param, monkeypatch)


@pytest.fixture(params=["fused", "fused, device data"])
def fused_way(request, monkeypatch):
    return Way(request.param, monkeypatch)


# ---- results


def test_predictions_equal_sgdml_and_cpu(reference, way):
    model = model_of(reference)
    R = reference["R_test"][:5].reshape(5, -1)
    results = way.predict(way.predictor(model), R, return_virial=True)
    scale = np.abs(reference["F_pred"]).max()
    energies, forces = rounding_of(reference)
    np.testing.assert_allclose(results[1], reference["F_pred"][:5], rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(results[0], reference["E_pred"][:5], rtol=0, atol=1e-9 * scale + energies)
    expected = GDMLPredict(model).predict(R, return_virial=True)
    assert_close(results, expected, 1e-10, (energies, forces, energies))


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("n_atoms", "n_train"), [(2, 3), (3, 1), (5, 8), (6, 17)])
def test_predictions_equal_oracle(group, n_atoms, n_train, energies, way):
    perms = GROUPS[group](n_atoms) if n_atoms > 2 else np.array([[0, 1], [1, 0]])
    model = make_model(n_train, perms, energies=energies)
    R_train, R = random_molecules(n_train, n_atoms), random_molecules(3, n_atoms, seed=9)
    parameters = (model["sig"], model["std"], model["c"])
    E_ref, F_ref = oracle.predict(R, R_train, model["alphas_F"], perms, *parameters, alphas_E=model.get("alphas_E"))
    E, F = way.predict(way.predictor(model), R)
    np.testing.assert_allclose(E, E_ref, rtol=0, atol=1e-11 * max(1, np.abs(E_ref).max()))
    np.testing.assert_allclose(F.reshape(F_ref.shape), F_ref, rtol=0, atol=1e-11 * np.abs(F_ref).max())


# Tiles have 8 points, warps 32 lanes; 12 atoms have 66 pairs, 24 atoms more than a block has threads.
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("n_atoms", "n_train"), [(3, 7), (5, 9), (12, 16), (24, 3)])
def test_predictions_equal_cpu(n_atoms, n_train, cell, way):
    model = make_model(n_train, symmetric_group_of_three(n_atoms), CELLS[cell], energies=True)
    predictor, expected = way.predictor(model), GDMLPredict(model)
    for n_geo in (1, 4):
        R = random_molecules(n_geo, n_atoms, seed=n_geo).reshape(n_geo, -1)
        results = way.predict(predictor, R, return_virial=True)
        assert_close(results, expected.predict(R, return_virial=True))
        np.testing.assert_array_equal(way.predict(predictor, R, return_E=False)[0], results[1])


def test_predictions_in_other_cells_equal_cpu(way):
    model = make_model(9, symmetric_group_of_three(5), CELLS["minimum"])
    predictor, expected = way.predictor(model), GDMLPredict(model)
    R = random_molecules(3, 5, seed=1).reshape(3, -1)
    # The last ones have different numbers of images to try.
    boxes = [SKEWED, np.diag([6.0, 6.1, 6.2]), 1.1 * SKEWED]
    for lattice in (1.1 * SKEWED, np.diag([6.0, 6.1, 6.2]), boxes):
        results = way.predict(predictor, R, cell=Cell(lattice), return_virial=True)
        assert_close(results, expected.predict(R, lattice=lattice, return_virial=True))
    with pytest.raises(DataError, match="2 lattices for 3 geometries"):
        way.predict(predictor, R, cell=Cell([SKEWED, SKEWED]))


def test_forces_are_derivatives(way):
    model = make_model(9, symmetric_group_of_three(5), CELLS["minimum"], energies=True)
    predictor = way.predictor(model)
    r = random_molecules(1, 5, seed=4).ravel()
    steps = 1e-4 * np.eye(15)
    E_plus, E_minus = (way.predict(predictor, r + step)[0] for step in (steps, -steps))
    _, F, virial = way.predict(predictor, r, return_virial=True)
    np.testing.assert_allclose(F[0], -(E_plus - E_minus) / 2e-4, rtol=0, atol=1e-6 * np.abs(F).max())
    for i, j in ((0, 0), (0, 1), (2, 1)):
        strain = np.zeros((3, 3))
        strain[i, j] = 1e-4
        E_plus, E_minus = (
            way.predict(predictor, r.reshape(-1, 3) @ s.T, cell=Cell(s @ SKEWED))[0][0]
            for s in (np.eye(3) + strain, np.eye(3) - strain)
        )
        np.testing.assert_allclose(virial[0, i, j], -(E_plus - E_minus) / 2e-4, atol=1e-6 * np.abs(virial).max())


def test_near_training_points_nothing_is_lost(way):
    # rho is the square root of a difference of nearly equal numbers where products of matrices give it.
    model = make_model(20, symmetric_group_of_three(6), energies=True, sig=20.0)
    R_train = random_molecules(20, 6)
    predictor, expected = way.predictor(model), GDMLPredict(model)
    for shift in (0.0, 1e-9, 1e-5):
        R = (R_train + shift * R_train**2)[:4].reshape(4, -1)
        assert_close(way.predict(predictor, R), expected.predict(R))


def test_results_do_not_depend_on_the_other_geometries(fused_way):
    predictor = fused_way.predictor(make_model(9, symmetric_group_of_three(5), energies=True))
    R = random_molecules(4, 5, seed=2)
    together = fused_way.predict(predictor, R, return_virial=True)
    for k in range(4):
        for one, all_ in zip(fused_way.predict(predictor, R[k], return_virial=True), together, strict=True):
            np.testing.assert_array_equal(one[0], all_[k])


def test_large_groups_are_cut_into_chunks(fused_way, monkeypatch):
    model = make_model(5, GROUPS["all move"](7), energies=True)
    R = random_molecules(2, 7, seed=2)
    expected = GDMLPredict(model).predict(R.reshape(2, -1))
    monkeypatch.setattr(fused, "_SHARED_MEMORY", 8 * (21 + 16 * 5))  # 21 pairs and five permutations of seven
    predictor = fused_way.predictor(model)
    assert fused_way.predict(predictor, R)[1].shape == (2, 21)
    assert predictor._replicas[0].fused._chunk == 5
    assert_close(fused_way.predict(predictor, R), expected)


def test_many_atoms_take_the_bulk_path(way):
    n_atoms = 112  # 6216 pairs: more than shared memory has room for
    grid = np.stack(np.meshgrid(*[np.arange(5.0)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n_atoms]
    R = 1.4 * grid + np.random.default_rng(0).uniform(-0.3, 0.3, (3, n_atoms, 3))
    x, g = descriptor.from_R(R[:2])
    model = {
        "z": np.ones(n_atoms, dtype=int),
        "R_desc": x.T,
        "R_d_desc_alpha": descriptor.jacobian_dot(g, R[:2]),
        "tril_perms_lin": descriptor.tril_perms_lin([np.arange(n_atoms)]),
        "sig": 30.0,
        "std": 1.0,
        "c": 0.0,
    }
    predictor = way.predictor(model)
    assert predictor._replicas[0].fused is None
    assert_close(way.predict(predictor, R[2:]), GDMLPredict(model).predict(R[2:].reshape(1, -1)))


def test_unusable_geometries_are_named(way):
    predictor = way.predictor(make_model(9, symmetric_group_of_three(5), CELLS["minimum"]))
    R = random_molecules(6, 5, seed=2)
    R[3, 4] = R[3, 2] + SKEWED[:, 1]
    with pytest.raises(DataError, match=r"geometry 3 .*atoms 2 and 4"):
        way.predict(predictor, R)
    for value in (np.nan, np.inf):
        R[1, 4, 0] = value
        with pytest.raises(DataError, match=r"Geometry 1 .*not finite.*atom 4"):
            way.predict(predictor, R)
    # The next call knows nothing of it.
    assert np.isfinite(way.predict(predictor, R[4:])[1]).all()


def test_shapes(way):
    model = make_model(9, symmetric_group_of_three(5))
    predictor = way.predictor(model)
    R = random_molecules(4, 5, seed=2)
    E, F = way.predict(predictor, R)
    assert (E.shape, F.shape) == ((4,), (4, 15))
    assert way.predict(predictor, R[0])[1].shape == way.predict(predictor, R[0].ravel())[1].shape == (1, 15)
    assert way.predict(predictor, R[:0])[1].shape == (0, 15)
    assert way.predict(predictor, R[:0], return_virial=True)[2].shape == (0, 3, 3)
    np.testing.assert_array_equal(way.predict(predictor, np.asfortranarray(R))[1], F)
    with pytest.raises(DataError, match="do not fit a model of 5 atoms"):
        way.predict(predictor, np.zeros((2, 12)))
    if not way.device_data:
        np.testing.assert_array_equal(predictor.predict(R.tolist())[1], F)
    x, v = predictor.arrays.x, predictor.arrays.v
    with pytest.raises(DataError, match="R_d_desc_alpha must be"):
        way.predictor({**model, "R_desc": x[1:].T})
    with pytest.raises(DataError, match=r"J alpha has shape \(8, 10\)"):
        predictor.with_coefficients(v[1:])
    with pytest.raises(DataError, match="alphas_E has 3 elements"):
        predictor.with_coefficients(v, np.zeros(3))


def test_models_of_several_cells_need_one(way):
    model = make_model(3, symmetric_group_of_three(5), CELLS["minimum"])
    model["lattice"] = np.array([model["lattice"]] * 3)
    predictor, R = way.predictor(model), random_molecules(4, 5, seed=2).reshape(4, -1)
    with pytest.raises(UsageError, match="different lattice vectors"):
        way.predict(predictor, R)
    assert_close(way.predict(predictor, R, cell=CELLS["minimum"]), GDMLPredict(model).predict(R, lattice=SKEWED))


def test_descriptors_instead_of_geometries(way):
    model = make_model(9, symmetric_group_of_three(5), energies=True)
    predictor = way.predictor(model)
    R = random_molecules(4, 5, seed=2)
    results = predictor.predict_descriptors(*gpu_descriptor.from_R(R, xp=np))
    assert all(type(result) is np.ndarray for result in results)
    assert_close(results, GDMLPredict(model).predict(R.reshape(4, -1)))
    on_device = predictor.predict_descriptors(*gpu_descriptor.from_R(R, xp=way.xp), return_E=False)
    assert isinstance(on_device[0], way.xp.ndarray)
    assert_close(on_device, results[1:], 1e-15)


def test_new_coefficients(way):
    perms = symmetric_group_of_three(5)
    predictor = way.predictor(make_model(9, perms, energies=True))
    R = random_molecules(3, 5, seed=2)
    for _ in range(3):  # the third call launches a graph
        before = way.predict(predictor, R)
    for energies in (True, False):
        other = make_model(9, perms, energies=energies, seed=8)
        changed = predictor.with_coefficients(other["R_d_desc_alpha"], other.get("alphas_E"))
        assert_close(way.predict(changed, R), GDMLPredict(other).predict(R.reshape(3, -1)))
    for ours, expected in zip(way.predict(predictor, R), before, strict=True):
        np.testing.assert_array_equal(ours, expected)  # it stays as it is


@pytest.mark.parametrize("precision", ["double", "mixed"])
def test_only_new_coefficients_are_copied(host_cupy, precision, launches):
    perms = symmetric_group_of_three(5)
    predictor = GPUPredictor.from_model(make_model(9, perms), host_cupy, precision=precision)
    R = random_molecules(3, 5, seed=2).reshape(3, -1)
    for _ in range(2):
        predictor.predict(R)
    for seed in (8, 9):
        other = make_model(9, perms, energies=True, seed=seed)
        with cuda_on_host.counted() as traffic:
            predictor = predictor.with_coefficients(other["R_d_desc_alpha"], other["alphas_E"])
        assert traffic.to_device == other["R_d_desc_alpha"].nbytes + 9 * 8
        assert_close(predictor.predict(R), GDMLPredict(other).predict(R))
    assert (launches.captured, launches.launched) == (1, 3)


def test_a_predictor_in_use_keeps_its_model(host_cupy, monkeypatch):
    perms = symmetric_group_of_three(5)
    model, other = make_model(9, perms), make_model(9, perms, seed=8)
    predictor = GPUPredictor.from_model(model, host_cupy)
    R = random_molecules(3, 5, seed=2).reshape(3, -1)
    original, made = fused.Fused.predict_from_host, []

    def meanwhile(self, *arguments):
        if not made:  # as another thread might
            made.append(predictor.with_coefficients(other["R_d_desc_alpha"]))
        return original(self, *arguments)

    monkeypatch.setattr(fused.Fused, "predict_from_host", meanwhile)
    assert_close(predictor.predict(R), GDMLPredict(model).predict(R))
    assert_close(made[0].predict(R), GDMLPredict(other).predict(R))
    assert made[0]._replicas[0] is not predictor._replicas[0]
    # And afterwards no longer.
    replica = predictor._replicas[0]
    assert predictor.with_coefficients(other["R_d_desc_alpha"])._replicas[0] is replica
    assert_close(predictor.predict(R), GDMLPredict(model).predict(R))


def test_center_does_not_depend_on_permutations():
    perms = symmetric_group_of_three(6)
    model = make_model(4, perms)
    device_model = GPUPredictor.from_model(model, np)._replicas[0].model
    for perm in perms:
        np.testing.assert_allclose(
            device_model.center[descriptor.pair_permutation(perm)], device_model.center, rtol=1e-13
        )
    # Centred descriptors are smaller: that is what keeps cancellation small.
    assert device_model.x_dot_x.sum() < 0.25 * ((device_model.q * model["R_desc"]) ** 2).sum()


def test_the_facade_uses_the_device(monkeypatch, ethanol_model, host_cupy):
    monkeypatch.setattr("fastgdml.predict.resolve_backend", lambda backend, use_torch: "gpu")
    monkeypatch.setattr("fastgdml.predict.array_module", lambda backend: host_cupy)
    model = {**ethanol_model, "alphas_E": np.random.default_rng(0).normal(size=30)}
    ours, theirs = GDMLPredict(model, backend="gpu"), None
    monkeypatch.undo()
    theirs = GDMLPredict(model)
    R = random_molecules(3, 9).reshape(3, -1)
    assert_close(ours.predict(R, return_virial=True), theirs.predict(R, return_virial=True))
    x, g = descriptor.from_R(random_molecules(30, 9, seed=3))
    alphas_F, alphas_E = np.random.default_rng(1).normal(size=(30, 27)), np.ones(30)
    for predictor in (ours, theirs):
        predictor.set_R_desc(x)
        predictor.set_R_d_desc(g)
        predictor.set_alphas(alphas_F, alphas_E)
    assert_close(ours.predict(), theirs.predict())
    assert ours.get_GPU_batch() > 1000


# ---- calls from the host: buffers and graphs


@pytest.fixture
def launches(monkeypatch):
    """Count the graphs that are captured and launched."""
    counts = types.SimpleNamespace(captured=0, launched=0)
    end_capture, launch = cuda_on_host.runtime.Stream.end_capture, cuda_on_host.runtime.Graph.launch

    def counted_capture(self):
        counts.captured += 1
        return end_capture(self)

    def counted_launch(self, stream=None):
        counts.launched += 1
        launch(self, stream)

    monkeypatch.setattr(cuda_on_host.runtime.Stream, "end_capture", counted_capture)
    monkeypatch.setattr(cuda_on_host.runtime.Graph, "launch", counted_launch)
    return counts


def test_repeated_calls_are_a_graph(host_cupy, launches):
    model = make_model(9, symmetric_group_of_three(5), CELLS["minimum"])
    predictor, expected = GPUPredictor.from_model(model, host_cupy), GDMLPredict(model)
    kept = []
    for k in range(4):
        R = random_molecules(2, 5, seed=k).reshape(2, -1)
        results = predictor.predict(R, cell=Cell((1 + 0.01 * k) * SKEWED), return_virial=True)
        kept.append((results, expected.predict(R, lattice=(1 + 0.01 * k) * SKEWED, return_virial=True)))
    assert (launches.captured, launches.launched) == (1, 3)
    # Results are the caller's: later calls do not write to them.
    for results, reference_results in kept:
        assert_close(results, reference_results)
    # Another shape of call is another graph.
    predictor.predict(R)
    predictor.predict(R)
    assert (launches.captured, launches.launched) == (2, 4)


def test_without_graphs_the_kernels_are_launched(host_cupy, launches, monkeypatch, caplog):
    def refuse(self):
        raise RuntimeError("not supported here")

    monkeypatch.setattr(cuda_on_host.runtime.Stream, "begin_capture", refuse)
    caplog.set_level(logging.INFO, "fastgdml")
    model = make_model(9, symmetric_group_of_three(5))
    predictor, expected = GPUPredictor.from_model(model, host_cupy), GDMLPredict(model)
    for k in range(4):
        R = random_molecules(1, 5, seed=k).reshape(1, -1)
        assert_close(predictor.predict(R), expected.predict(R))
    assert launches.launched == 0
    assert caplog.text.count("No CUDA graph, the kernels are launched one by one: not supported here") == 1


def test_buffers_of_few_shapes_are_kept(host_cupy):
    model = make_model(9, symmetric_group_of_three(5))
    predictor = GPUPredictor.from_model(model, host_cupy)
    R = random_molecules(9, 5)
    for n_geo in range(1, 10):
        predictor.predict(R[:n_geo])
    calls = predictor._replicas[0].fused._calls
    assert [key[0] for key in calls] == [6, 7, 8, 9]
    predictor.predict(R[:6])
    predictor.predict(R[:1])
    assert [key[0] for key in calls] == [8, 9, 6, 1]


def test_one_object_serves_several_threads(host_cupy):
    model = make_model(9, symmetric_group_of_three(5))
    predictor, expected = GPUPredictor.from_model(model, host_cupy), GDMLPredict(model)
    inputs = [random_molecules(2, 5, seed=k).reshape(2, -1) for k in range(8)]
    outputs = [None] * 8

    def run(k):
        outputs[k] = predictor.predict(inputs[k])

    threads = [threading.Thread(target=run, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for R, results in zip(inputs, outputs, strict=True):
        assert_close(results, expected.predict(R))


def test_what_does_not_fit_at_once_goes_in_batches(host_cupy, monkeypatch):
    model = make_model(9, symmetric_group_of_three(5))
    predictor = GPUPredictor.from_model(model, host_cupy)

    def no_memory(*args):
        raise MemoryError

    monkeypatch.setattr(fused, "_Outputs", no_memory)
    R = random_molecules(2, 5).reshape(2, -1)
    expected = GDMLPredict(model).predict(R)
    assert_close(predictor.predict(R), expected)
    assert_close(predictor.predict(host_cupy.asarray(R)), expected)


# ---- batches


@pytest.fixture(params=["NumPy", "bulk", "bulk, device data"])
def bulk_way(request, monkeypatch):
    return Way(request.param, monkeypatch)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batches_change_nothing(batch, bulk_way, monkeypatch):
    predictor = bulk_way.predictor(make_model(9, symmetric_group_of_three(5), CELLS["minimum"]))
    R = random_molecules(7, 5, seed=2)
    lattices = Cell([(1 + 0.01 * k) * SKEWED for k in range(7)])
    whole = bulk_way.predict(predictor, R, cell=lattices, return_virial=True)
    monkeypatch.setattr(gpu_bulk.Bulk, "batch_size", lambda self, n_geo, n_at_once: batch)
    assert_close(bulk_way.predict(predictor, R, cell=lattices, return_virial=True), whole, 1e-13)
    R[6, 1] = R[6, 0]
    with pytest.raises(DataError, match="geometry 6 "):
        bulk_way.predict(predictor, R)


def test_batches_fit_the_free_memory(monkeypatch):
    bulk = GPUPredictor.from_model(make_model(9, symmetric_group_of_three(5)), np)._replicas[0].bulk
    monkeypatch.setattr(gpu_bulk, "free_memory", lambda xp: 10 * bulk.bytes_per_geometry)
    assert bulk.batch_size(1000) == 6
    assert bulk.batch_size(1000, 2) == 3
    assert bulk.batch_size(3) == 3
    monkeypatch.setattr(gpu_bulk, "free_memory", lambda xp: 0)
    assert bulk.batch_size(1000) == 1
    monkeypatch.setattr(gpu_bulk, "free_memory", lambda xp: 2**60)
    assert 60 * bulk.batch_size(2**60) <= gpu_bulk._MAX_ELEMENTS  # six permutations of ten pairs


def test_less_is_tried_when_memory_runs_out(bulk_way, monkeypatch):
    predictor = bulk_way.predictor(make_model(9, symmetric_group_of_three(5)))
    R = random_molecules(7, 5, seed=2)
    whole = bulk_way.predict(predictor, R)
    original, sizes = gpu_bulk.Bulk.predict, []

    def limited(self, x, g, virials):
        sizes.append(len(x))
        if len(x) > 2:
            raise MemoryError
        return original(self, x, g, virials)

    monkeypatch.setattr(gpu_bulk.Bulk, "predict", limited)
    assert_close(bulk_way.predict(predictor, R), whole, 1e-13)
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]

    def none_fits(self, x, g, virials):
        raise MemoryError

    monkeypatch.setattr(gpu_bulk.Bulk, "predict", none_fits)
    with pytest.raises(InsufficientMemoryError, match=r"one geometry of 5 atoms with 9 training points"):
        bulk_way.predict(predictor, R)


def work_through(n_geo, size, compute, collect):
    streams = iter(contextlib.nullcontext(k) for k in range(100))
    gpu_batches.work_through(gpu_batches.Ranges(n_geo), size, streams, compute, collect, np)


def test_results_are_collected_one_batch_late():
    # So that the device is never without work.
    events = []
    work_through(
        5,
        2,
        lambda begin, end: events.append(f"compute {begin}-{end}") or begin,
        lambda begin, end, results, stream: events.append(f"collect {begin}-{end}, {results}"),
    )
    assert events == [
        "compute 0-2",
        "compute 2-4",
        "collect 0-2, 0",
        "compute 4-5",
        "collect 2-4, 2",
        "collect 4-5, 4",
    ]


def test_what_waits_is_collected_before_giving_up():
    # The first batch fills the memory until it is collected.
    held, sizes = [], []

    class Held:
        pass

    def compute(begin, end):
        sizes.append(end - begin)
        if held:
            raise MemoryError
        held.append(1)
        return Held()

    work_through(3, 1, compute, lambda *batch: held.clear())
    assert sizes == [1, 1, 1, 1, 1]


def test_failed_batches_leave_no_memory_behind(monkeypatch):
    class Temporary:
        alive = 0

        def __init__(self):
            Temporary.alive += 1

        def __del__(self):
            Temporary.alive -= 1

    def compute(begin, end):
        temporary = Temporary()  # noqa: F841
        if end - begin > 1:
            raise MemoryError

    alive = []
    monkeypatch.setattr(gpu_batches, "release", lambda xp: alive.append(Temporary.alive))
    gc.disable()
    try:
        work_through(4, 4, compute, lambda *batch: None)
    finally:
        gc.enable()
    assert alive == [0, 0]


# ---- several devices


@pytest.mark.parametrize("emulated", [False, True])
def test_batches_are_spread_over_devices(emulated, monkeypatch, request):
    xp = request.getfixturevalue("host_cupy") if emulated else np
    model = make_model(9, symmetric_group_of_three(5), energies=True)
    R = random_molecules(40, 5, seed=2).reshape(40, -1)
    whole = GPUPredictor.from_model(model, np).predict(R, return_virial=True)
    terms = 9 * 6 * 10  # of one geometry
    monkeypatch.setattr(gpu_predict, "_FUSED_TERMS", 10 * terms)
    monkeypatch.setattr(gpu_bulk.Bulk, "batch_size", lambda self, n_geo, n_at_once: 3)

    used, batches, everyone = set(), [], threading.Barrier(3)
    enter, local, original = gpu_predict.on_device, threading.local(), gpu_bulk.Bulk.predict

    @contextlib.contextmanager
    def recorded(number, xp):
        with enter(number, xp):
            local.number = number
            yield

    def predict(self, x, g, virials):
        # The first batches wait until all three devices have one.
        if local.number not in used:
            used.add(local.number)
            everyone.wait(timeout=60)
        batches.append((local.number, len(x)))
        return original(self, x, g, virials)

    monkeypatch.setattr(gpu_predict, "on_device", recorded)
    monkeypatch.setattr(gpu_bulk.Bulk, "predict", predict)
    predictor = GPUPredictor.from_model(model, xp, devices=[0, 2, 5])
    assert list(predictor._replicas) == [0]  # the others get the model when they are needed
    assert_close(predictor.predict(R, return_virial=True), whole, 1e-13)
    assert used == {0, 2, 5}
    assert sum(size for _, size in batches) == 40
    # Less work, fewer devices.
    used.clear()
    batches.clear()
    everyone = threading.Barrier(2)
    assert_close(predictor.predict(R[:25]), [whole[0][:25], whole[1][:25]], 1e-13)
    assert used == {0, 2}


def test_errors_on_one_device_are_raised(host_cupy, monkeypatch):
    monkeypatch.setattr(gpu_predict, "_FUSED_TERMS", 1)
    model = make_model(9, symmetric_group_of_three(5))
    predictor = GPUPredictor.from_model(model, np, devices=[0, 1])
    original = gpu_bulk.Bulk.predict

    def fail_once(self, x, g, virials):
        if self is predictor._replicas[1].bulk:
            raise ArithmeticError("device 1 is broken")
        return original(self, x, g, virials)

    predictor._replica(1)
    monkeypatch.setattr(gpu_bulk.Bulk, "predict", fail_once)
    monkeypatch.setattr(gpu_bulk.Bulk, "batch_size", lambda self, n_geo, n_at_once: 1)
    ready = threading.Barrier(2)
    monkeypatch.setattr(gpu_predict, "work_through", lambda *args: (ready.wait(60), gpu_batches.work_through(*args)))
    with pytest.raises(ArithmeticError, match="device 1 is broken"):
        predictor.predict(random_molecules(200, 5))


@pytest.mark.parametrize("terms", [2**26, 1])
def test_data_on_a_device_stay_there(terms, monkeypatch):
    monkeypatch.setattr(gpu_predict, "_FUSED_TERMS", terms)
    xp = cuda_on_host.host_cupy(n_devices=3)
    model = make_model(9, symmetric_group_of_three(5), CELLS["minimum"])
    predictor = GPUPredictor.from_model(model, xp)
    assert predictor._devices == [0, 1, 2]
    R = random_molecules(4, 5, seed=2).reshape(4, -1)
    with xp.cuda.Device(2):
        data = xp.asarray(R)
    results = predictor.predict(data, return_virial=True)
    assert {result.device.id for result in results} == {2}
    assert_close(results, GDMLPredict(model).predict(R, return_virial=True))
    data.host[3, :3] = data.host[3, 3:6]
    with pytest.raises(DataError, match="geometry 3 "):
        predictor.predict(data)
    # An engine with other coefficients predicts there, too.
    other = make_model(9, symmetric_group_of_three(5), CELLS["minimum"], seed=3)
    predictor = predictor.with_coefficients(other["R_d_desc_alpha"])
    assert_close([predictor.predict(data[:3])[1]], [GDMLPredict(other).predict(R[:3])[1]])


# ---- where data lie


def test_where_data_lie():
    class OnDevice(np.ndarray):
        """What stands for cupy.ndarray here."""

    device = types.SimpleNamespace(
        ndarray=OnDevice,
        float64=np.float64,
        asarray=lambda a, dtype: np.zeros(2, dtype).view(OnDevice),
        from_dlpack=lambda a: np.ones(2).view(OnDevice),
    )

    class Tensor:
        def __init__(self, kind):
            self.kind = kind
            self.values = np.arange(3.0)

        def __dlpack_device__(self):
            return self.kind, 0

        def __dlpack__(self, **options):
            return self.values.__dlpack__(**options)

    host, cuda, interface = Tensor(1), Tensor(2), Tensor(2)
    interface.__cuda_array_interface__ = {}
    for data, on_device, values in [
        (np.arange(3), False, [0, 1, 2]),
        ([0, 1, 2], False, [0, 1, 2]),
        (host, False, [0, 1, 2]),
        (cuda, True, [1, 1]),
        (interface, True, [0, 0]),
    ]:
        taken, where = arrays.take(data, device)
        assert (where, taken.dtype, isinstance(taken, OnDevice)) == (on_device, np.float64, on_device)
        np.testing.assert_array_equal(taken, values)
