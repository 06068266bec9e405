"""The GPU backend with NumPy as its array module, and the choice of the backend. Needs no device."""

import types

import numpy as np
import pytest
from support.gpu_checks import check_assembly, check_assembly_with_oracle, check_rectangles_and_diagonal_blocks
from support.molecules import GROUPS, random_molecules

from fastgdml import backend, descriptor
from fastgdml.cell import Cell
from fastgdml.errors import DataError, UsageError
from fastgdml.gpu import cholesky as gpu_cholesky
from fastgdml.gpu import descriptor as gpu_descriptor
from fastgdml.gpu import kernel as gpu_kernel

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


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("n_atoms", "n_train"), [(3, 1), (3, 4), (5, 3)])
def test_assembly_equals_oracle(group, n_atoms, n_train, energies):
    check_assembly_with_oracle(GROUPS[group](n_atoms), n_atoms, n_train, energies, np)


def test_assembly_equals_cpu(reference):
    check_assembly(reference, np)


@pytest.mark.parametrize("energies", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_rectangles_and_diagonal_blocks(group, energies):
    check_rectangles_and_diagonal_blocks(GROUPS[group](5), energies, np)


@pytest.mark.parametrize("first", [0, 1, 5, 10**9, 3 * 10**14])
def test_blocks_of_the_lower_triangle_are_numbered(first):
    row, col = gpu_kernel._lower_blocks(first, first + 100_000)
    assert (col >= 0).all()
    assert (col <= row).all()
    np.testing.assert_array_equal(row * (row + 1) // 2 + col, np.arange(first, first + 100_000))


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


def test_unknown_backend():
    with pytest.raises(UsageError, match="no backend 'tpu': choose one of cpu, gpu, auto"):
        backend.resolve_backend("tpu")


def test_cupy_is_not_imported_with_the_package():
    import subprocess
    import sys

    code = "import fastgdml.train, fastgdml.gpu.predict, fastgdml.gpu.cholesky, sys; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd="/", check=False).returncode == 0
