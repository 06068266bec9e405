"""The GPU backend with NumPy as its array module, and the choice of the backend. Needs no device."""

import ctypes
import types

import numpy as np
import pytest
import reference as oracle
import scipy.linalg
from conftest import cyclic_group, random_molecules, symmetric_group_of_three

from fastgdml import backend, descriptor
from fastgdml.cell import Cell
from fastgdml.errors import DataError, InsufficientMemoryError, SolverError, UsageError
from fastgdml.gpu import cholesky as gpu_cholesky
from fastgdml.gpu import descriptor as gpu_descriptor
from fastgdml.gpu import kernel as gpu_kernel
from fastgdml.group import GroupTables
from fastgdml.kernel import Coordinates, assemble_full
from fastgdml.solvers import cholesky as cpu_solver
from fastgdml.solvers.rigid import drop_rigid_motions
from fastgdml.train import GDMLTrain

GROUPS = {
    "one": lambda n: np.arange(n)[None, :],
    "all move": lambda n: cyclic_group(n, n),
    "three atoms": symmetric_group_of_three,
    "no group": lambda n: np.array([np.roll(np.arange(n), 1), np.arange(n)]),
}


# ---- descriptors


SKEWED = np.array([[3.1, 1.4, -0.9], [0.0, 2.9, 1.2], [0.0, 0.0, 3.3]])
CELLS = [
    None,
    Cell(SKEWED, "rounding"),
    Cell(SKEWED, "minimum"),
    Cell([scale * SKEWED for scale in (1, 1.1, 1.2, 1.3, 1.4, 1.5)], "minimum"),
    Cell([np.diag([3.0, 3.1, 3.2]), *[SKEWED] * 5], "minimum"),
]


@pytest.mark.parametrize("cell", CELLS)
def test_descriptors_equal_cpu(cell):
    R = random_molecules(6, 7)
    for ours, theirs in zip(gpu_descriptor.from_R(R, cell, xp=np), descriptor.from_R(R, cell), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-15)


def test_unusable_geometries_are_named():
    R = random_molecules(3, 5)
    R[1, 4] = R[1, 2]
    with pytest.raises(DataError, match=r"geometry 1 .*atoms 2 and 4"):
        gpu_descriptor.from_R(R, xp=np)
    R[1, 4, 0] = np.nan
    with pytest.raises(DataError, match=r"Geometry 8 .*not finite"):
        gpu_descriptor.from_R(R, None, 7, xp=np)
    with pytest.raises(DataError, match="shape"):
        gpu_descriptor.from_R(R[0], xp=np)


# ---- kernel matrix


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("n_atoms", "n_train"), [(3, 1), (3, 4), (5, 3)])
def test_assembly_equals_oracle(group, n_atoms, n_train):
    perms = GROUPS[group](n_atoms)
    R = random_molecules(n_train, n_atoms)
    rows = Coordinates.full(n_train, 3 * n_atoms)
    x, g = gpu_descriptor.from_R(R, xp=np)
    K = gpu_kernel.assemble_lower(x, g, GroupTables.from_perms(perms), 4.0, rows, -2.0, xp=np)
    expected = -2.0 * oracle.kernel_matrix(R, perms, 4.0)
    np.testing.assert_allclose(np.tril(K), np.tril(expected), rtol=0, atol=1e-13 * np.abs(expected).max())


def test_assembly_equals_cpu(reference):
    R = reference["R_train"][:4]
    x, g = descriptor.from_R(R, Cell.of(reference))
    tables = GroupTables.from_perms(reference["perms"])
    expected = assemble_full(x, g, tables, float(reference["sig"]))
    rows = drop_rigid_motions(R, "lattice" in reference).rows
    K = gpu_kernel.assemble_lower(x, g, tables, float(reference["sig"]), rows, xp=np)
    kept = np.repeat(np.arange(4) * 3 * R.shape[1], np.diff(rows.begin)) + rows.coord
    assert K.flags.f_contiguous
    np.testing.assert_allclose(
        np.tril(K), np.tril(expected[np.ix_(kept, kept)]), rtol=0, atol=1e-13 * np.abs(expected).max()
    )


def test_pairs_are_expanded():
    x, g = gpu_descriptor.from_R(random_molecules(2, 4), xp=np)
    square = gpu_kernel._expand_pairs(x, g, np)
    np.testing.assert_array_equal(square[:, 0], square[:, 0].swapaxes(1, 2))
    np.testing.assert_array_equal(square[:, 1:], -square[:, 1:].swapaxes(2, 3))
    np.testing.assert_array_equal(square[1, 0][np.tril_indices(4, -1)], x[1])
    np.testing.assert_array_equal(square[1, 3][np.tril_indices(4, -1)], g[1, :, 2])


def test_blocks_are_added():
    matrix = np.zeros((5, 5), order="F")
    blocks = np.arange(1.0, 19.0).reshape(2, 3, 3)
    gpu_cholesky.add_blocks(matrix, np.array([0, 2, 5]), blocks, np)
    expected = np.zeros((5, 5))
    expected[:2, :2], expected[2:, 2:] = blocks[0, :2, :2], blocks[1]
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize("name", ["assembly", "weights", "predict"])
def test_the_kernels_are_shipped(name):
    from importlib.resources import files

    code = (files("fastgdml") / "gpu" / "cuda" / f"{name}.cu").read_text()
    assert 'extern "C" __global__' in code
    assert "#include" not in code  # the run-time compiler has no headers


class HostArray(np.ndarray):
    """An array with the address where CuPy has it."""

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)


def host_array(values, dtype=np.float64):
    return np.array(values, dtype=dtype, order="K").view(HostArray)


def view(address, rows, cols, stride):
    """Return the matrix at an address, columns `stride` elements apart."""
    size = (cols - 1) * stride + rows
    flat = np.ctypeslib.as_array((ctypes.c_double * size).from_address(address))
    return np.lib.stride_tricks.as_strided(flat, (rows, cols), (8, 8 * stride))


def value(address):
    return view(address, 1, 1, 1)[0, 0]


class HostBlas:
    """The routines of cuBLAS and cuSOLVER that are used, for addresses on the host."""

    CUBLAS_OP_N, CUBLAS_OP_T = 0, 1
    CUBLAS_SIDE_LEFT, CUBLAS_SIDE_RIGHT = 0, 1
    CUBLAS_FILL_MODE_LOWER = CUBLAS_DIAG_NON_UNIT = 0

    @staticmethod
    def dpotrf_bufferSize(handle, uplo, n, a, lda):
        return 7

    @staticmethod
    def dpotrf(handle, uplo, n, a, lda, work, n_work, info):
        assert n_work == 7
        A = view(a, n, n, lda)
        result, status = scipy.linalg.lapack.dpotrf(np.tril(A), lower=1)
        A[np.tril_indices(n)] = result[np.tril_indices(n)]
        ctypes.c_int32.from_address(info).value = status

    @staticmethod
    def dtrsm(handle, side, uplo, trans, diag, m, n, alpha, a, lda, b, ldb):
        L = np.tril(view(a, *[m if side == 0 else n] * 2, lda))
        op = L.T if trans else L
        B = view(b, m, n, ldb)
        B[:] = value(alpha) * (np.linalg.solve(op, B) if side == 0 else np.linalg.solve(op.T, B.T).T)

    @staticmethod
    def dgemm(handle, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        assert (trans_a, trans_b) == (0, 1)
        C = view(c, m, n, ldc)
        C[:] = value(beta) * C + value(alpha) * view(a, m, k, lda) @ view(b, n, k, ldb).T

    @staticmethod
    def dgemv(handle, trans, m, n, alpha, a, lda, x, incx, beta, y, incy):
        A = view(a, m, n, lda).T if trans else view(a, m, n, lda)
        out = view(y, A.shape[0], 1, 1)
        out[:] = value(beta) * out + value(alpha) * A @ view(x, A.shape[1], 1, 1)


@pytest.fixture
def blas_cupy(monkeypatch):
    """An array module that is not NumPy, with the libraries above."""
    monkeypatch.setattr(gpu_cholesky, "importlib", types.SimpleNamespace(import_module=lambda name: HostBlas))
    device = types.SimpleNamespace(get_cublas_handle=lambda: 1, get_cusolver_handle=lambda: 2)
    return types.SimpleNamespace(
        float64=np.float64,
        empty=lambda n, dtype=np.float64: host_array(np.empty(n), dtype),
        array=host_array,
        cuda=types.SimpleNamespace(device=device),
    )


@pytest.mark.parametrize("block", [None, 20, 7, 1, 19])
def test_blocked_factorisation(block, blas_cupy):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(20, 20))
    A = A @ A.T + 20 * np.eye(20)
    rhs = rng.normal(size=20)
    matrix = host_array(np.asfortranarray(np.tril(A)))  # nothing above the diagonal
    assert gpu_cholesky.cholesky(matrix, blas_cupy, block)
    np.testing.assert_allclose(np.tril(matrix), np.linalg.cholesky(A), rtol=0, atol=1e-12)
    z = gpu_cholesky.cholesky_solve(matrix, rhs, blas_cupy, block)
    np.testing.assert_allclose(z, np.linalg.solve(A, rhs), rtol=0, atol=1e-13)

    A[13, 13] = -1.0
    assert not gpu_cholesky.cholesky(host_array(np.asfortranarray(A)), blas_cupy, block)


# ---- training


def training_set(R, perms, seed=0):
    x, g = descriptor.from_R(R)
    y = np.random.default_rng(seed).normal(size=R.size)
    # Forces without net force and torque: those a force field can have.
    n = drop_rigid_motions(R)
    return R, x, g, GroupTables.from_perms(perms), 4.0, 1e-10, n.expand(n.reduce(y), 3 * R.shape[1])


def test_solution_equals_cpu():
    arguments = training_set(random_molecules(12, 5), symmetric_group_of_three(5))
    solving = []
    ours = gpu_cholesky.solve_closed_form(*arguments, on_solving=lambda: solving.append(1), xp=np)
    theirs = cpu_solver.solve_closed_form(*arguments)
    assert (ours.lam, solving) == (1e-10, [1])
    np.testing.assert_allclose(ours.alphas_F, theirs.alphas_F, rtol=0, atol=1e-7 * np.abs(theirs.alphas_F).max())


def test_lambda_is_raised_for_duplicates(caplog):
    R = random_molecules(5, 5)
    R[3] = R[1]
    arguments = list(training_set(R, symmetric_group_of_three(5)))
    arguments[5] = 0.0
    solution = gpu_cholesky.solve_closed_form(*arguments, xp=np)
    assert solution.lam > 0
    assert "Training points 1 and 3 have the same geometry" in caplog.text


def test_a_hopeless_matrix_is_an_error(monkeypatch):
    monkeypatch.setattr(gpu_cholesky, "cholesky", lambda matrix, xp: False)
    with pytest.raises(SolverError, match="not positive definite"):
        gpu_cholesky.solve_closed_form(*training_set(random_molecules(3, 5), [[0, 1, 2, 3, 4]]), xp=np)


def test_memory_is_checked_first(monkeypatch):
    arguments = training_set(random_molecules(3, 5), [[0, 1, 2, 3, 4]])
    monkeypatch.setattr(gpu_cholesky, "free_memory", lambda xp: 2**10)
    with pytest.raises(InsufficientMemoryError, match=r"3 points of 5 atoms needs .* GB .* are free.*backend='cpu'"):
        gpu_cholesky.solve_closed_form(*arguments, xp=np)
    monkeypatch.undo()

    def out_of_memory(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(gpu_cholesky, "assemble_lower", out_of_memory)
    with pytest.raises(InsufficientMemoryError, match="3 points of 5 atoms"):
        gpu_cholesky.solve_closed_form(*arguments, xp=np)
    assert gpu_cholesky.memory_estimate(1000, 21, 6) > 8 * 57000**2


# ---- choice of the backend


def fake_cupy(n_devices=1, error=None):
    class CUDARuntimeError(RuntimeError):
        pass

    def count():
        if error:
            raise CUDARuntimeError(error)
        return n_devices

    runtime = types.SimpleNamespace(getDeviceCount=count, CUDARuntimeError=CUDARuntimeError)
    return types.SimpleNamespace(__version__="14.2", cuda=types.SimpleNamespace(runtime=runtime))


def pretend(monkeypatch, module):
    def find(name):
        if name == "cupy" and isinstance(module, Exception):
            raise module
        return module if name == "cupy" else np

    monkeypatch.setattr(backend, "importlib", types.SimpleNamespace(import_module=find))


def test_backend_with_a_device(monkeypatch):
    module = fake_cupy()
    pretend(monkeypatch, module)
    assert [backend.resolve_backend(name) for name in ("cpu", "gpu", "auto")] == ["cpu", "gpu", "gpu"]
    assert backend.array_module("gpu") is module
    assert backend.array_module("cpu") is np


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (ImportError("No module named 'cupy'"), r"importing cupy failed \(No module named 'cupy'\)"),
        (ImportError(""), r"importing cupy failed"),
        (fake_cupy(0), "cupy 14.2 sees 0 devices"),
        (fake_cupy(error="no driver"), r"cupy 14.2 found no device \(no driver\)"),
    ],
)
def test_backend_without_a_device(module, reason, monkeypatch):
    pretend(monkeypatch, module)
    assert backend.resolve_backend("auto") == "cpu"
    assert backend.resolve_backend("cpu") == "cpu"
    with pytest.raises(UsageError, match=reason + r".*pip install 'fastgdml\[gpu\]'"):
        backend.resolve_backend("gpu")


def test_use_torch_takes_the_device_where_there_is_one(monkeypatch, caplog):
    pretend(monkeypatch, fake_cupy())
    assert [backend.resolve_backend(name, use_torch=True) for name in backend.BACKENDS] == ["gpu"] * 3
    assert caplog.text.count("use_torch: PyTorch is not used. This runs on the GPU") == 1
    caplog.clear()
    pretend(monkeypatch, ImportError("No module named 'cupy'"))
    assert backend.resolve_backend("cpu", use_torch=True) == "cpu"
    assert "importing cupy failed (No module named 'cupy'). This runs on the processor." in caplog.text
    # Who asks for a device by name gets no other.
    with pytest.raises(UsageError, match="needs CuPy"):
        backend.resolve_backend("gpu", use_torch=True)


def test_energy_constraints_are_left_to_the_processor(monkeypatch, ethanol):
    task = GDMLTrain().create_task(ethanol, 10, ethanol, 10, 20, use_E_cstr=True, seed=0)
    pretend(monkeypatch, fake_cupy())
    with pytest.raises(UsageError, match=r"energy constraints .*backend='cpu'"):
        GDMLTrain(backend="gpu").train(task)


def test_unknown_backend():
    with pytest.raises(UsageError, match="no backend 'tpu': choose one of cpu, gpu, auto"):
        backend.resolve_backend("tpu")


def test_cupy_is_not_imported_with_the_package():
    import subprocess
    import sys

    code = "import fastgdml.train, fastgdml.gpu.predict, fastgdml.gpu.cholesky, sys; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd="/", check=False).returncode == 0
