"""The GPU backend on a device. Skipped, with the reason, where there is none."""

import numpy as np
import pytest
from conftest import cyclic_group, random_molecules, symmetric_group_of_three

cupy = pytest.importorskip("cupy", reason="CuPy is not installed: these tests need it and a CUDA device")

from fastgdml.backend import resolve_backend  # noqa: E402
from fastgdml.cell import Cell  # noqa: E402
from fastgdml.descriptor import from_R, jacobian_dot, tril_perms_lin  # noqa: E402
from fastgdml.errors import DataError, InsufficientMemoryError, UsageError  # noqa: E402
from fastgdml.gpu import arrays  # noqa: E402
from fastgdml.gpu import cholesky as gpu_cholesky  # noqa: E402
from fastgdml.gpu import descriptor as gpu_descriptor  # noqa: E402
from fastgdml.gpu import kernel as gpu_kernel  # noqa: E402
from fastgdml.gpu import predict as gpu_predict  # noqa: E402
from fastgdml.group import GroupTables  # noqa: E402
from fastgdml.kernel import Coordinates, assemble_full  # noqa: E402
from fastgdml.predict import GDMLPredict  # noqa: E402
from fastgdml.solvers.cholesky import solve_closed_form  # noqa: E402
from fastgdml.solvers.rigid import drop_rigid_motions  # noqa: E402


def device_problem():
    try:
        resolve_backend("gpu")
    except UsageError as error:
        return str(error)
    return ""


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(device_problem()), reason=device_problem() or "-")]

CELL = Cell([[6.1, 2.4, 0.0], [0.0, 6.9, 0.2], [0.0, 0.0, 6.3]])
GROUPS = {
    "one": lambda n: np.arange(n)[None, :],
    "all move": lambda n: cyclic_group(n, n),
    "three atoms": symmetric_group_of_three,
}


def make_model(n_train, n_atoms, perms, cell=None, sig=10.0):
    R_train = random_molecules(n_train, n_atoms)
    alphas = np.random.default_rng(1).normal(size=(n_train, 3 * n_atoms))
    x, g = from_R(R_train, cell)
    model = {
        "z": np.ones(n_atoms, dtype=int),
        "R_desc": x.T,
        "R_d_desc_alpha": jacobian_dot(g, alphas),
        "tril_perms_lin": tril_perms_lin(perms),
        "sig": sig,
        "std": 2.5,
        "c": -7.0,
    }
    if cell is not None:
        model |= {"lattice": cell.lattice, "image_rule": cell.image_rule}
    return model


def assert_close(ours, theirs, tolerance):
    np.testing.assert_allclose(arrays.to_numpy(ours), theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("cell", [None, CELL])
def test_descriptors(cell):
    R = random_molecules(100, 12)
    for ours, theirs in zip(gpu_descriptor.from_R(R, cell, xp=cupy), from_R(R, cell), strict=True):
        assert isinstance(ours, cupy.ndarray)
        assert_close(ours, theirs, 1e-14)
    R[77, 3] = R[77, 9]
    with pytest.raises(DataError, match=r"geometry 77 .*atoms 3 and 9"):
        gpu_descriptor.from_R(R, cell, xp=cupy)


# ---- prediction


@pytest.mark.parametrize("cell", [None, CELL])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("n_atoms", "n_train", "n_geo"), [(3, 1, 4), (9, 200, 500), (21, 130, 70)])
def test_predictions_equal_cpu(group, n_atoms, n_train, n_geo, cell):
    model = make_model(n_train, n_atoms, GROUPS[group](n_atoms), cell)
    R = random_molecules(n_geo, n_atoms, seed=5).reshape(n_geo, -1)
    E, F = gpu_predict.GPUPredictor.from_model(model).predict(R)
    E_ref, F_ref = GDMLPredict(model).predict(R)
    assert_close(F, F_ref, 1e-10)
    assert_close(E - model["c"], E_ref - model["c"], 1e-10)


def test_predictions_equal_sgdml(reference):
    model = {key: reference[key] for key in ("z", "R_d_desc_alpha", "tril_perms_lin", "sig", "std", "c")}
    model["R_desc"] = reference["R_desc"].T
    if "lattice" in reference:
        model["lattice"] = reference["lattice"]
    R = reference["R_test"].reshape(len(reference["R_test"]), -1)
    E, F = gpu_predict.GPUPredictor.from_model(model).predict(R)
    scale = np.abs(reference["F_pred"]).max()
    np.testing.assert_allclose(F, reference["F_pred"], rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(E, reference["E_pred"], rtol=0, atol=1e-9 * scale)


def test_forces_are_derivatives():
    model = make_model(50, 9, symmetric_group_of_three(9), CELL)
    predictor = gpu_predict.GPUPredictor.from_model(model)
    r = random_molecules(1, 9, seed=4).ravel()
    steps = 1e-4 * np.eye(27)
    E_plus, E_minus = predictor.predict(r + steps)[0], predictor.predict(r - steps)[0]
    F = predictor.predict(r, return_E=False)[0][0]
    assert_close(F, -(E_plus - E_minus) / 2e-4, 1e-6)


def test_results_stay_where_the_data_are():
    predictor = gpu_predict.GPUPredictor.from_model(make_model(20, 5, symmetric_group_of_three(5)))
    R = random_molecules(8, 5, seed=3).reshape(8, -1)
    on_host, on_device = predictor.predict(R), predictor.predict(cupy.asarray(R))
    for host, device in zip(on_host, on_device, strict=True):
        assert type(host) is np.ndarray
        assert isinstance(device, cupy.ndarray)
        assert_close(device, host, 1e-13)

    class Interface:
        """An array of another library on the device."""

        def __init__(self, array, name):
            setattr(self, name, getattr(array, name))
            self.__dlpack_device__ = array.__dlpack_device__

    data = cupy.asarray(R)
    for other in (Interface(data, "__cuda_array_interface__"), Interface(data, "__dlpack__")):
        F = predictor.predict(other, return_E=False)[0]
        assert isinstance(F, cupy.ndarray)
        assert_close(F, on_host[1], 1e-13)
    single = predictor.predict(cupy.asarray(R, dtype=cupy.float32))
    assert single[0].dtype == single[1].dtype == cupy.float64


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_small_batches(batch, monkeypatch):
    predictor = gpu_predict.GPUPredictor.from_model(make_model(30, 9, symmetric_group_of_three(9)))
    R = random_molecules(40, 9, seed=2)
    E, F = predictor.predict(R)
    monkeypatch.setattr(predictor, "_batch_size", lambda n: batch)
    E_small, F_small = predictor.predict(R)
    assert_close(F_small, F, 1e-12)
    assert_close(E_small, E, 1e-12)
    R[33, 1] = R[33, 0]
    with pytest.raises(DataError, match="geometry 33 "):
        predictor.predict(R)


def test_smaller_batches_when_memory_runs_out(monkeypatch):
    predictor = gpu_predict.GPUPredictor.from_model(make_model(30, 9, symmetric_group_of_three(9)))
    R = random_molecules(40, 9, seed=2)
    F = predictor.predict(R)[1]
    original, sizes = predictor._predict_batch, []

    def limited(x, g):
        sizes.append(len(x))
        if len(x) > 10:
            raise cupy.cuda.memory.OutOfMemoryError(1, 1, 1)
        return original(x, g)

    monkeypatch.setattr(predictor, "_predict_batch", limited)
    assert_close(predictor.predict(R)[1], F, 1e-12)
    assert sizes == [40, 20, 10, 10, 10, 10]


def test_a_small_memory_pool_is_enough():
    # Real failures of the allocator, not pretended ones.
    predictor = gpu_predict.GPUPredictor.from_model(make_model(500, 9, symmetric_group_of_three(9)))
    R = random_molecules(4000, 9, seed=2)
    F = predictor.predict(R)[1]
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.get_limit()
    pool.set_limit(size=pool.used_bytes() + 64 * 2**20)
    try:
        F_limited = predictor.predict(R)[1]
    finally:
        pool.set_limit(size=before)
    assert_close(F_limited, F, 1e-12)


# ---- kernel matrix


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("n_atoms", "n_train"), [(3, 1), (3, 40), (9, 30), (21, 9), (42, 5)])
def test_kernel_equals_cpu(group, n_atoms, n_train):
    R = random_molecules(n_train, n_atoms)
    tables = GroupTables.from_perms(GROUPS[group](n_atoms))
    x, g = from_R(R)
    expected = assemble_full(x, g, tables, 10.0)
    K = gpu_kernel.assemble_lower(x, g, tables, 10.0, Coordinates.full(n_train, 3 * n_atoms), xp=cupy)
    assert K.flags.f_contiguous
    assert_close(np.tril(arrays.to_numpy(K)), np.tril(expected), 1e-13)

    steps = []
    rows = drop_rigid_motions(R).rows
    kept = np.repeat(np.arange(n_train) * 3 * n_atoms, np.diff(rows.begin)) + rows.coord
    K = gpu_kernel.assemble_lower(x, g, tables, 10.0, rows, -3.0, lambda *step: steps.append(step), xp=cupy)
    assert_close(np.tril(arrays.to_numpy(K)), -3.0 * np.tril(expected[np.ix_(kept, kept)]), 1e-13)
    assert steps[-1][0] == steps[-1][1]


def test_kernel_equals_array_operations():
    R = random_molecules(6, 5)
    x, g = gpu_descriptor.from_R(R, xp=cupy)
    tables = GroupTables.from_perms(cyclic_group(5, 5))
    rows = Coordinates.full(6, 15)
    K = gpu_kernel.assemble_lower(x, g, tables, 4.0, rows, xp=cupy)
    expected = gpu_kernel.assemble_reference(x, g, tables, 4.0, gpu_kernel.row_map(rows, 15), xp=cupy)
    assert_close(cupy.tril(K), np.tril(arrays.to_numpy(expected)), 1e-13)


@pytest.mark.parametrize("shared_memory", [1, 4000, 100_000])
def test_kernel_with_any_chunk_of_permutations(shared_memory, monkeypatch):
    # One permutation at a time, a few, and more than 48 KB.
    R = random_molecules(4, 30)
    x, g = from_R(R)
    tables = GroupTables.from_perms(cyclic_group(30, 30))
    monkeypatch.setattr(gpu_kernel, "_SHARED_MEMORY", shared_memory)
    if shared_memory > 48 * 1024:
        load = gpu_kernel.load_cuda

        def with_more_memory(name, xp):
            kernel = load(name, xp)
            kernel.max_dynamic_shared_size_bytes = shared_memory
            return kernel

        monkeypatch.setattr(gpu_kernel, "load_cuda", with_more_memory)
    K = gpu_kernel.assemble_lower(x, g, tables, 10.0, Coordinates.full(4, 90), xp=cupy)
    assert_close(np.tril(arrays.to_numpy(K)), np.tril(assemble_full(x, g, tables, 10.0)), 1e-13)


def test_kernel_of_many_atoms():
    # One permutation needs more than 48 KB of shared memory.
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(8.0)] * 3, indexing="ij"), -1).reshape(-1, 3)[:430] * 1.4
    R = grid + rng.uniform(-0.3, 0.3, (2, *grid.shape))
    x, g = from_R(R)
    tables = GroupTables.from_perms([np.arange(430)])
    K = gpu_kernel.assemble_lower(x, g, tables, 50.0, Coordinates.full(2, 1290), xp=cupy)
    assert_close(np.tril(arrays.to_numpy(K)), np.tril(assemble_full(x, g, tables, 50.0)), 1e-13)


@pytest.mark.parametrize("block", [None, 64, 100, 299])
def test_cholesky(block):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(300, 300))
    A = A @ A.T + 300 * np.eye(300)
    rhs = rng.normal(size=300)
    matrix = cupy.asfortranarray(cupy.asarray(np.tril(A)))
    assert gpu_cholesky.cholesky(matrix, cupy, block)
    assert_close(cupy.tril(matrix), np.linalg.cholesky(A), 1e-13)
    assert_close(gpu_cholesky.cholesky_solve(matrix, rhs, cupy, block), np.linalg.solve(A, rhs), 1e-12)
    A[211, 211] = -1.0
    assert not gpu_cholesky.cholesky(cupy.asfortranarray(cupy.asarray(A)), cupy, block)


# ---- training


def test_training_end_to_end(ethanol, ethanol_task, ethanol_model):
    task = ethanol_task
    R, F = task["R_train"], task["F_train"].ravel()
    tables = GroupTables.from_perms(task["perms"])
    x, g = gpu_descriptor.from_R(R, xp=cupy)
    x, g = arrays.to_numpy(x), arrays.to_numpy(g)
    std = float(np.std(F))
    calls = []
    solution = gpu_cholesky.solve_closed_form(
        R,
        x,
        g,
        tables,
        float(task["sig"]),
        float(task["lam"]),
        F / std,
        assembly_progress=lambda done, total: calls.append(done / total),
        on_solving=lambda: calls.append("solving"),
        xp=cupy,
    )
    assert calls[-2:] == [1.0, "solving"]
    assert solution.lam == float(task["lam"])
    predictor = gpu_predict.GPUPredictor(
        x,
        jacobian_dot(g, solution.alphas_F.reshape(len(R), -1)),
        np.argsort(tables.pair, axis=1),
        float(task["sig"]),
        std,
        float(ethanol_model["c"]),
    )
    points = ethanol["R"][:200].reshape(200, -1)
    E, F = predictor.predict(points)
    E_ref, F_ref = GDMLPredict(ethanol_model).predict(points)
    scale = np.abs(F_ref).max()
    np.testing.assert_allclose(F, F_ref, rtol=0, atol=1e-6 * scale)
    np.testing.assert_allclose(E, E_ref, rtol=0, atol=1e-6 * scale)


def test_periodic_training_equals_cpu():
    R = random_molecules(30, 8)
    x, g = from_R(R, CELL)
    y = np.random.default_rng(0).normal(size=R.shape)
    y = (y - y.mean(axis=1, keepdims=True)).ravel()
    arguments = (R, x, g, GroupTables.from_perms(symmetric_group_of_three(8)), 5.0, 1e-8, y, True)
    ours, theirs = gpu_cholesky.solve_closed_form(*arguments, xp=cupy), solve_closed_form(*arguments)
    assert_close(ours.alphas_F, theirs.alphas_F, 1e-6)


def test_lambda_is_raised_for_duplicates(caplog):
    R = random_molecules(5, 5)
    R[3] = R[1]
    x, g = from_R(R)
    tables = GroupTables.from_perms(symmetric_group_of_three(5))
    y = np.random.default_rng(0).normal(size=R.size)
    assert gpu_cholesky.solve_closed_form(R, x, g, tables, 4.0, 0.0, y, xp=cupy).lam > 0
    assert "Training points 1 and 3 have the same geometry" in caplog.text


def test_too_large_a_matrix_is_refused_at_once():
    n_atoms = 200
    n_train = int((arrays.free_memory(cupy) / 8) ** 0.5 / (3 * n_atoms - 6)) + 2
    x, g = np.zeros((n_train, 19900)), np.zeros((n_train, 19900, 3))
    tables = GroupTables.from_perms([np.arange(n_atoms)])
    pool = cupy.get_default_memory_pool()
    used = pool.used_bytes()
    R = np.zeros((n_train, n_atoms, 3))
    with pytest.raises(InsufficientMemoryError, match=r"GB of device memory, .* are free"):
        gpu_cholesky.solve_closed_form(R, x, g, tables, 4.0, 1e-10, np.zeros(R.size), xp=cupy)
    assert pool.used_bytes() == used
