"""The GPU backend on a device. Skipped, with the reason, where there is none."""

import numpy as np
import pytest
from conftest import cyclic_group, random_molecules, symmetric_group_of_three

cupy = pytest.importorskip("cupy", reason="CuPy is not installed: these tests need it and a CUDA device")

from fastgdml.backend import resolve_backend  # noqa: E402
from fastgdml.cell import Cell  # noqa: E402
from fastgdml.descriptor import from_R, jacobian_dot  # noqa: E402
from fastgdml.errors import InsufficientMemoryError, UsageError  # noqa: E402
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


def assert_close(ours, theirs, tolerance):
    np.testing.assert_allclose(arrays.to_numpy(ours), theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


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
