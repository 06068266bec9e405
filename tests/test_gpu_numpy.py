"""The GPU backend with NumPy as its array module, and the choice of the backend. Needs no device."""

import types

import numpy as np
import pytest
import reference as oracle
from conftest import cyclic_group, random_molecules, symmetric_group_of_three
from gpu_checks import GROUPS, check_assembly, check_assembly_with_oracle, check_rectangles_and_diagonal_blocks

from fastgdml import backend, descriptor
from fastgdml.cell import Cell
from fastgdml.errors import DataError, InsufficientMemoryError, UsageError
from fastgdml.gpu import arrays
from fastgdml.gpu import cholesky as gpu_cholesky
from fastgdml.gpu import descriptor as gpu_descriptor
from fastgdml.gpu import kernel as gpu_kernel
from fastgdml.gpu import predict as gpu_predict
from fastgdml.predict import GDMLPredict


def make_model(R_train, perms, sig=3.0, std=2.5, c=-7.0, seed=0, cell=None):
    alphas = np.random.default_rng(seed).normal(size=(len(R_train), 3 * R_train.shape[1]))
    x, g = descriptor.from_R(R_train, cell)
    model = {
        "z": np.ones(R_train.shape[1], dtype=int),
        "R_desc": x.T,
        "R_d_desc_alpha": descriptor.jacobian_dot(g, alphas),
        "tril_perms_lin": descriptor.tril_perms_lin(perms),
        "sig": sig,
        "std": std,
        "c": c,
    }
    if cell is not None:
        model |= {"lattice": cell.lattice, "image_rule": cell.image_rule}
    return model, alphas


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


def test_predictions_in_other_cells_equal_cpu():
    cell = Cell(2 * SKEWED)
    model, _ = make_model(random_molecules(9, 5), cyclic_group(5, 5), cell=cell)
    R = random_molecules(6, 5, seed=1).reshape(6, -1)
    for lattice in (None, 2.2 * SKEWED, [scale * SKEWED for scale in (2.0, 2.1, 2.2, 2.3, 2.4, 2.5)]):
        E_ref, F_ref = GDMLPredict(model).predict(R, lattice=lattice)
        E, F = gpu_predict.GPUPredictor.from_model(model, np).predict(
            R, cell=None if lattice is None else Cell(lattice)
        )
        np.testing.assert_allclose(F, F_ref, rtol=0, atol=1e-10 * np.abs(F_ref).max())
        np.testing.assert_allclose(E, E_ref, rtol=1e-10)
    with pytest.raises(DataError, match="2 lattices for 6 geometries"):
        gpu_predict.GPUPredictor.from_model(model, np).predict(R, cell=Cell([SKEWED, SKEWED]))


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


# ---- prediction


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("n_atoms", "n_train"), [(3, 1), (5, 8), (6, 30)])
def test_predictions_equal_oracle(group, n_atoms, n_train):
    perms = GROUPS[group](n_atoms)
    R_train, R = random_molecules(n_train, n_atoms), random_molecules(5, n_atoms, seed=9)
    model, alphas = make_model(R_train, perms)
    E_ref, F_ref = oracle.predict(R, R_train, alphas, perms, model["sig"], model["std"], model["c"])
    E, F = gpu_predict.GPUPredictor.from_model(model, np).predict(R)
    np.testing.assert_allclose(E, E_ref, rtol=0, atol=1e-11 * max(1, np.abs(E_ref).max()))
    np.testing.assert_allclose(F.reshape(F_ref.shape), F_ref, rtol=0, atol=1e-11 * np.abs(F_ref).max())


def test_predictions_equal_sgdml(reference):
    model = {key: reference[key] for key in ("z", "R_d_desc_alpha", "tril_perms_lin", "sig", "std", "c")}
    model["R_desc"] = reference["R_desc"].T
    if "lattice" in reference:
        model["lattice"] = reference["lattice"]
    if "alphas_E" in reference:
        with pytest.raises(UsageError, match="energy constraints"):
            gpu_predict.GPUPredictor.from_model({**model, "alphas_E": reference["alphas_E"]}, np)
        return
    R = reference["R_test"].reshape(len(reference["R_test"]), -1)
    E, F = gpu_predict.GPUPredictor.from_model(model, np).predict(R)
    scale = np.abs(reference["F_pred"]).max()
    np.testing.assert_allclose(F, reference["F_pred"], rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(E, reference["E_pred"], rtol=0, atol=1e-9 * scale)


def test_near_training_points_nothing_is_lost():
    # rho is the square root of a difference of nearly equal numbers here.
    R_train = random_molecules(20, 6)
    model, _ = make_model(R_train, symmetric_group_of_three(6), sig=20.0)
    ours, theirs = gpu_predict.GPUPredictor.from_model(model, np), GDMLPredict(model)
    for shift in (0.0, 1e-9, 1e-5):
        (E, F), (E_ref, F_ref) = (p.predict((R_train + shift * R_train**2).reshape(20, -1)) for p in (ours, theirs))
        np.testing.assert_allclose(F, F_ref, rtol=0, atol=1e-10 * np.abs(F_ref).max())
        np.testing.assert_allclose(E, E_ref, rtol=0, atol=1e-10 * np.abs(E_ref).max())


def test_center_does_not_depend_on_permutations():
    perms = symmetric_group_of_three(6)
    model, _ = make_model(random_molecules(4, 6), perms)
    predictor = gpu_predict.GPUPredictor.from_model(model, np)
    for perm in perms:
        np.testing.assert_allclose(predictor._center[descriptor.pair_permutation(perm)], predictor._center, rtol=1e-13)
    # Centred descriptors are smaller: that is what keeps cancellation small.
    assert predictor._x_dot_x.sum() < 0.25 * ((predictor._q * model["R_desc"]) ** 2).sum()


def test_forces_are_derivatives():
    model, _ = make_model(random_molecules(9, 5), cyclic_group(5, 5), cell=Cell(np.diag([4.5, 5.0, 5.5])))
    predictor = gpu_predict.GPUPredictor.from_model(model, np)
    r = random_molecules(1, 5, seed=4).ravel()
    steps = 1e-4 * np.eye(15)
    E_plus, E_minus = predictor.predict(r + steps)[0], predictor.predict(r - steps)[0]
    F = predictor.predict(r, return_E=False)[0][0]
    np.testing.assert_allclose(F, -(E_plus - E_minus) / 2e-4, rtol=0, atol=1e-6 * np.abs(F).max())


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batches_change_nothing(batch, monkeypatch):
    model, _ = make_model(random_molecules(9, 5), symmetric_group_of_three(5))
    predictor = gpu_predict.GPUPredictor.from_model(model, np)
    R = random_molecules(7, 5, seed=2)
    E, F = predictor.predict(R)
    monkeypatch.setattr(predictor, "_batch_size", lambda n: batch)
    for one, other in zip(predictor.predict(R), (E, F), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-13 * np.abs(other).max())
    R[6, 1] = R[6, 0]
    with pytest.raises(DataError, match="geometry 6 "):
        predictor.predict(R)


def test_batches_fit_the_free_memory(monkeypatch):
    model, _ = make_model(random_molecules(9, 5), symmetric_group_of_three(5))
    predictor = gpu_predict.GPUPredictor.from_model(model, np)
    monkeypatch.setattr(gpu_predict, "free_memory", lambda xp: 10 * predictor._bytes_per_geometry())
    assert predictor._batch_size(1000) == 6
    assert predictor._batch_size(3) == 3
    monkeypatch.setattr(gpu_predict, "free_memory", lambda xp: 0)
    assert predictor._batch_size(1000) == 1


def test_less_is_tried_when_memory_runs_out(monkeypatch):
    model, _ = make_model(random_molecules(9, 5), symmetric_group_of_three(5))
    predictor = gpu_predict.GPUPredictor.from_model(model, np)
    R = random_molecules(7, 5, seed=2)
    F = predictor.predict(R)[1]
    original, sizes = predictor._predict_batch, []

    def limited(x, g, *options):
        sizes.append(len(x))
        if len(x) > 2:
            raise MemoryError
        return original(x, g, *options)

    monkeypatch.setattr(predictor, "_predict_batch", limited)
    np.testing.assert_allclose(predictor.predict(R)[1], F, rtol=1e-13, atol=1e-13 * np.abs(F).max())
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]

    def none_fits(x, g, *options):
        raise MemoryError

    monkeypatch.setattr(predictor, "_predict_batch", none_fits)
    with pytest.raises(InsufficientMemoryError, match=r"one geometry of 5 atoms with 9 training points"):
        predictor.predict(R)


def test_shapes_and_descriptors():
    model, _ = make_model(random_molecules(9, 5), symmetric_group_of_three(5))
    predictor = gpu_predict.GPUPredictor.from_model(model, np)
    R = random_molecules(4, 5, seed=2)
    E, F = predictor.predict(R)
    assert (E.shape, F.shape) == ((4,), (4, 15))
    assert predictor.predict(R[0])[1].shape == predictor.predict(R[0].ravel())[1].shape == (1, 15)
    assert predictor.predict(R[:0])[1].shape == (0, 15)
    np.testing.assert_array_equal(predictor.predict(R, return_E=False)[0], F)
    np.testing.assert_array_equal(predictor.predict(R.tolist())[1], F)
    from_descriptors = predictor.predict_descriptors(*gpu_descriptor.from_R(R, xp=np))
    np.testing.assert_array_equal(from_descriptors[0], E)
    np.testing.assert_array_equal(from_descriptors[1], F)
    with pytest.raises(DataError, match="do not fit a model of 5 atoms"):
        predictor.predict(np.zeros((2, 12)))
    with pytest.raises(DataError, match="one molecule"):
        gpu_predict.GPUPredictor(np.zeros((2, 10)), np.zeros((3, 10)), np.arange(10)[None], 1.0, 1.0, 0.0, xp=np)


def test_new_coefficients():
    R_train = random_molecules(6, 5)
    model, _ = make_model(R_train, symmetric_group_of_three(5))
    other, _ = make_model(R_train, symmetric_group_of_three(5), seed=8)
    predictor = gpu_predict.GPUPredictor.from_model(model, np)
    predictor.set_coefficients(other["R_d_desc_alpha"])
    R = random_molecules(3, 5, seed=2)
    np.testing.assert_array_equal(predictor.predict(R)[1], gpu_predict.GPUPredictor.from_model(other, np).predict(R)[1])


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


@pytest.mark.parametrize("name", ["assembly", "weights"])
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
