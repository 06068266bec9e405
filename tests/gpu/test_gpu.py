"""The GPU backend on a device. Skipped, with the reason, where there is none."""

import numpy as np
import pytest
from support.gpu_checks import (
    assert_close,
    check_assembly,
    check_assembly_with_oracle,
    check_low_rank,
    check_rectangles_and_diagonal_blocks,
)
from support.molecules import GROUPS, cyclic_group, random_molecules, symmetric_group_of_three

cupy = pytest.importorskip("cupy", reason="CuPy is not installed: needed, with a device", exc_type=ImportError)

from fastgdml import lapack  # noqa: E402
from fastgdml.backend import resolve_backend  # noqa: E402
from fastgdml.cell import Cell  # noqa: E402
from fastgdml.errors import InsufficientMemoryError, UsageError  # noqa: E402
from fastgdml.gpu import arrays, machine  # noqa: E402
from fastgdml.gpu import cholesky as gpu_cholesky  # noqa: E402
from fastgdml.gpu import descriptor as gpu_descriptor  # noqa: E402
from fastgdml.gpu import kernel as gpu_kernel  # noqa: E402
from fastgdml.gpu import operator as gpu_operator  # noqa: E402
from fastgdml.gpu import preconditioner as gpu_preconditioner  # noqa: E402
from fastgdml.gpu.devices import DividedTraining  # noqa: E402
from fastgdml.gpu.machine import device  # noqa: E402
from fastgdml.group import GroupTables  # noqa: E402
from fastgdml.kernel import Coordinates, assemble_full  # noqa: E402
from fastgdml.operator import KernelOperator  # noqa: E402
from fastgdml.predict import GDMLPredict  # noqa: E402
from fastgdml.solvers import preconditioner  # noqa: E402
from fastgdml.solvers.cholesky import solve_closed_form  # noqa: E402
from fastgdml.solvers.equations import TrainingEquations  # noqa: E402
from fastgdml.solvers.iterative import IterativeSolver  # noqa: E402
from fastgdml.solvers.processor import processor  # noqa: E402
from fastgdml.solvers.rigid import drop_rigid_motions  # noqa: E402
from fastgdml.train import GDMLTrain  # noqa: E402
from fastgdml.training_set import TrainingSet  # noqa: E402


def device_problem():
    try:
        resolve_backend("gpu")
    except UsageError as error:
        return str(error)
    return ""


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(device_problem()), reason=device_problem() or "-"),
    # What other releases of CuPy and NumPy warn of is no fault of the results.
    pytest.mark.filterwarnings("default"),
]

CELL = Cell([[6.1, 2.4, 0.0], [0.0, 6.9, 0.2], [0.0, 0.0, 6.3]])

# ---- kernel matrix


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("n_atoms", "n_train"), [(3, 1), (3, 20), (9, 5)])
def test_kernel_equals_oracle(group, n_atoms, n_train, energies):
    check_assembly_with_oracle(GROUPS[group](n_atoms), n_atoms, n_train, energies, cupy)


def test_kernel_of_real_molecules_equals_cpu(reference):
    check_assembly(reference, cupy)


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_rectangles_and_diagonal_blocks(group, energies):
    check_rectangles_and_diagonal_blocks(GROUPS[group](5), energies, cupy)


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("group", ["one", "all move", "three atoms"])
@pytest.mark.parametrize(("n_atoms", "n_train"), [(3, 40), (9, 30), (21, 9), (42, 5)])
def test_kernel_equals_cpu(group, n_atoms, n_train, energies):
    R = random_molecules(n_train, n_atoms)
    training = TrainingSet.from_R(R, GROUPS[group](n_atoms), 10.0, energies)
    n_coord = training.n_coord
    expected = assemble_full(training)
    steps = []
    rows = drop_rigid_motions(R, energies=energies).rows
    kept = np.repeat(np.arange(n_train) * n_coord, np.diff(rows.begin)) + rows.coord
    K = gpu_kernel.assemble_lower(training, rows, -3.0, lambda *step: steps.append(step), xp=cupy)
    assert K.flags.f_contiguous
    assert_close(np.tril(arrays.to_numpy(K)), -3.0 * np.tril(expected[np.ix_(kept, kept)]), 1e-13)
    assert steps[-1][0] == steps[-1][1]


def test_kernel_equals_array_operations(monkeypatch):
    R = random_molecules(6, 5)
    x, g = gpu_descriptor.from_R(R, xp=cupy)
    training = TrainingSet(x, g, GroupTables.from_perms(cyclic_group(5, 5)), 4.0, True)
    rows = Coordinates.full(6, 16)
    K = gpu_kernel.assemble_lower(training, rows, xp=cupy)
    monkeypatch.setattr(gpu_kernel, "_with_cuda", gpu_kernel._with_arrays)
    expected = gpu_kernel.assemble_lower(training, rows, xp=cupy)
    assert_close(cupy.tril(K), np.tril(arrays.to_numpy(expected)), 1e-13)


@pytest.mark.parametrize("shared_memory", [1, 4000, 100_000])
def test_kernel_with_any_chunk_of_permutations(shared_memory, monkeypatch):
    # One permutation at a time, a few, and more than 48 KB.
    training = TrainingSet.from_R(random_molecules(4, 30), cyclic_group(30, 30), 10.0)
    monkeypatch.setattr(gpu_kernel, "_SHARED_MEMORY", shared_memory)
    if shared_memory > 48 * 1024:
        load = gpu_kernel.load_cuda

        def with_more_memory(name, xp):
            kernel = load(name, xp)
            kernel.max_dynamic_shared_size_bytes = shared_memory
            return kernel

        monkeypatch.setattr(gpu_kernel, "load_cuda", with_more_memory)
    K = gpu_kernel.assemble_lower(training, Coordinates.full(4, 90), xp=cupy)
    assert_close(np.tril(arrays.to_numpy(K)), np.tril(assemble_full(training)), 1e-13)


def test_kernel_of_many_atoms():
    # One permutation needs more than 48 KB of shared memory.
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(8.0)] * 3, indexing="ij"), -1).reshape(-1, 3)[:430] * 1.4
    R = grid + rng.uniform(-0.3, 0.3, (2, *grid.shape))
    training = TrainingSet.from_R(R, [np.arange(430)], 50.0)
    K = gpu_kernel.assemble_lower(training, Coordinates.full(2, 1290), xp=cupy)
    assert_close(np.tril(arrays.to_numpy(K)), np.tril(assemble_full(training)), 1e-13)


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


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("solver", ["closed", "cg"])
def test_models_equal_those_of_the_processor(solver, energies, ethanol):
    task = GDMLTrain().create_task(ethanol, 60, ethanol, 40, sig=10, seed=3, use_E_cstr=energies)
    expected = GDMLTrain().train(task, solver="closed")
    calls = []

    def callback(current, total=1, disp_str="", sec_disp_str=None, done_with_warning=False):
        calls.append((disp_str, current / total))

    model = GDMLTrain(backend="gpu").train(task, callback=callback, solver=solver, tol=1e-8)
    assert model["solver_name"] == {"closed": "analytic", "cg": "cg"}[solver]
    assert calls[-1][1] == 1
    points = ethanol["R"][:200].reshape(200, -1)
    (E, F), (E_ref, F_ref) = (GDMLPredict(m).predict(points) for m in (model, expected))
    tolerance = 1e-5 if solver == "closed" else 1e-3
    assert_close(F, F_ref, tolerance)
    np.testing.assert_allclose(E, E_ref, rtol=0, atol=tolerance * np.abs(F_ref).max())


def test_what_does_not_fit_is_iterated(ethanol):
    task = GDMLTrain().create_task(ethanol, 300, ethanol, 40, sig=20, seed=3)
    limit = 0.9 * gpu_cholesky.memory_estimate(300, 9, 6) / 2**30
    model = GDMLTrain(max_memory=limit, backend="gpu").train(task)
    assert model["solver_name"] == "cg"
    assert "of device memory" in str(model["solver_reason"])
    assert model["solver_resid"] <= 1e-4 * model["norm_y_train"]
    again = GDMLTrain().create_task_from_model(model, ethanol)
    resumed = GDMLTrain(backend="gpu").train(again, solver="cg", tol=1e-5)
    assert resumed["solver_iters"] > model["solver_iters"]


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize(("n_atoms", "n_train"), [(9, 200), (21, 60)])
def test_operator_equals_cpu(n_atoms, n_train, energies):
    training = TrainingSet.from_R(random_molecules(n_train, n_atoms), symmetric_group_of_three(n_atoms), 10.0, energies)
    v = np.random.default_rng(0).normal(size=n_train * (3 * n_atoms + energies))
    ours = gpu_operator.KernelOperator(DividedTraining.of(training, cupy))(cupy.asarray(v))
    assert isinstance(ours, cupy.ndarray)
    assert_close(ours, KernelOperator(training)(v), 1e-10)


@pytest.mark.parametrize("energies", [False, True])
def test_preconditioner_equals_cpu(energies, monkeypatch):
    n_atoms, n_train = 9, 100
    q = 3 * n_atoms + energies
    training = TrainingSet.from_R(random_molecules(n_train, n_atoms), symmetric_group_of_three(n_atoms), 10.0, energies)
    points = np.arange(0, n_train, 3)
    arguments = (training, 1e-8, points, [np.arange(k % 3, q - 6, 3) for k in points])
    monkeypatch.setattr(gpu_preconditioner, "_PIECE_BYTES", 2**20)
    ours = gpu_preconditioner.build(DividedTraining.of(training, cupy), *arguments[1:])
    r = np.random.default_rng(0).normal(size=n_train * q)
    # Low-rank parts are rounded to single precision.
    assert_close(ours(cupy.asarray(r)), preconditioner.build(*arguments)(r), 1e-3)


@pytest.mark.parametrize(("n_rows", "n_columns"), [(1, 1), (5, 3), (33, 64), (3000, 257), (100_030, 40)])
def test_products_with_the_low_rank_part(n_rows, n_columns):
    check_low_rank(n_rows, n_columns, cupy)


def test_roots_of_large_blocks():
    """Eigenvectors in batches, beyond the order of 32 up to which the routine is fastest."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(40, 126, 126))
    A = A @ A.swapaxes(1, 2) / 126
    roots = arrays.to_numpy(gpu_preconditioner.inverse_roots(cupy.asarray(A), 1e-10, cupy))
    triangles, failed = lapack.inverse_roots(A, 1e-10, preconditioner.BLOCK_SHIFT, 1)
    assert failed == -1
    assert_close(roots @ roots, triangles.swapaxes(1, 2) @ triangles, 1e-10)


@pytest.mark.parametrize("n_devices", [1, 2, 3])
def test_iterations_take_the_steps_of_the_processor(n_devices, ethanol, monkeypatch):
    numbers = arrays.visible_devices(cupy)[:n_devices]
    if len(numbers) < n_devices:
        pytest.skip(f"this machine has {len(numbers)} devices: the test needs {n_devices}")
    monkeypatch.setattr(machine.Device, "_helpers", numbers)
    task = GDMLTrain().create_task(ethanol, 60, ethanol, 40, sig=20, seed=3)
    training = TrainingSet.from_R(task["R_train"], task["perms"], 20.0)
    F = task["F_train"].ravel()
    equations = TrainingEquations(task["R_train"], training, 1e-10, F / F.std())
    ours, theirs = (IterativeSolver(equations, where) for where in (device(cupy), processor()))
    columns = theirs.choose_columns(300)
    found, expected = (solver.solve(columns, 1e-5) for solver in (ours, theirs))
    assert found.converged
    assert abs(found.iterations - expected.iterations) <= 0.1 * expected.iterations + 2
    product = KernelOperator(training)
    labels = product(expected.alphas_F)
    np.testing.assert_allclose(product(found.alphas_F), labels, rtol=0, atol=1e-4 * np.abs(labels).max())
    # The same bits another time: no result depends on which device is done first.
    for _ in range(3):
        np.testing.assert_array_equal(ours.solve(columns, 1e-5).alphas_F, found.alphas_F)


def test_periodic_training_equals_cpu():
    R = random_molecules(30, 8)
    training = TrainingSet.from_R(R, symmetric_group_of_three(8), 5.0, cell=CELL)
    y = np.random.default_rng(0).normal(size=R.shape)
    y = (y - y.mean(axis=1, keepdims=True)).ravel()
    equations = TrainingEquations(R, training, 1e-8, y, periodic=True)
    ours, theirs = (solve_closed_form(equations, where) for where in (device(cupy), processor()))
    assert_close(ours.alphas_F, theirs.alphas_F, 1e-6)


def test_lambda_is_raised_for_duplicates(caplog):
    R = random_molecules(5, 5)
    R[3] = R[1]
    training = TrainingSet.from_R(R, symmetric_group_of_three(5), 4.0)
    y = np.random.default_rng(0).normal(size=R.size)
    assert solve_closed_form(TrainingEquations(R, training, 0.0, y), device(cupy)).lam > 0
    assert "Training points 1 and 3 have the same geometry" in caplog.text


def test_too_large_a_matrix_is_refused_at_once():
    n_atoms = 200
    n_train = int((arrays.free_memory(cupy) / 8) ** 0.5 / (3 * n_atoms - 6)) + 2
    x, g = np.zeros((n_train, 19900)), np.zeros((n_train, 19900, 3))
    training = TrainingSet(x, g, GroupTables.from_perms([np.arange(n_atoms)]), 4.0)
    pool = cupy.get_default_memory_pool()
    used = pool.used_bytes()
    R = np.zeros((n_train, n_atoms, 3))
    with pytest.raises(InsufficientMemoryError, match=r"GB of device memory, .* are free"):
        device(cupy).factor(training, drop_rigid_motions(R).rows, np.zeros((n_train, 1, 1)))
    assert pool.used_bytes() == used
