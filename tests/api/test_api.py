"""The Python API of sgdml, name by name."""

import copy
import ctypes
import gc
import inspect
import json

import numpy as np
import pytest

import fastgdml.predict
import fastgdml.train
from fastgdml.errors import UsageError
from fastgdml.gpu.predict import GPUPredictor
from fastgdml.predict import GDMLPredict
from fastgdml.train import GDMLTrain

ALL = slice(None, None, None)

# Parameters of sgdml 1.0.3 in order, and the defaults of the last of them.
SIGNATURES = {
    "train.GDMLTrain": (["max_memory", "max_processes", "use_torch"], [None, None, False]),
    "train.GDMLTrain._assemble_kernel_mat": (
        [
            "R_desc",
            "R_d_desc",
            "tril_perms_lin",
            "sig",
            "desc",
            "use_E_cstr",
            "col_idxs",
            "alloc_extra_rows",
            "callback",
        ],
        [False, ALL, 0, None],
    ),
    "train.GDMLTrain._recov_int_const": (["model", "task", "R_desc", "R_d_desc"], [None, None]),
    "train.GDMLTrain.create_model": (
        ["task", "solver", "R_desc", "R_d_desc", "tril_perms_lin", "std", "alphas_F", "alphas_E"],
        [None],
    ),
    "train.GDMLTrain.create_task": (
        [
            *("train_dataset", "n_train", "valid_dataset", "n_valid", "sig", "lam", "perms", "use_sym", "use_E"),
            *("use_E_cstr", "callback"),
        ],
        [1e-10, None, True, True, False, None],
    ),
    "train.GDMLTrain.draw_strat_sample": (["T", "n", "excl_idxs"], [None]),
    "train.GDMLTrain.train": (["task", "save_progr_callback", "callback"], [None, None]),
    "train._assemble_kernel_mat_wkr": (
        ["j", "tril_perms_lin", "sig", "use_E_cstr", "exploit_sym", "cols_m_limit"],
        [False, False, None],
    ),
    "train._share_array": (["arr_np", "typecode_or_type"], []),
    "predict.GDMLPredict": (
        ["model", "batch_size", "num_workers", "max_memory", "max_processes", "use_torch", "log_level"],
        [None, None, None, None, False, None],
    ),
    "predict.GDMLPredict._set_batch_size": (["batch_size"], [None]),
    "predict.GDMLPredict._set_bulk_mp": (["bulk_mp"], [False]),
    "predict.GDMLPredict._set_chunk_size": (["chunk_size"], [None]),
    "predict.GDMLPredict._set_num_workers": (["num_workers", "force_reset"], [None, False]),
    "predict.GDMLPredict.get_GPU_batch": ([], []),
    "predict.GDMLPredict.predict": (["R", "return_E"], [None, True]),
    "predict.GDMLPredict.prepare_parallel": (["n_bulk", "n_reps", "return_is_from_cache"], [1, 1, False]),
    "predict.GDMLPredict.set_R_d_desc": (["R_d_desc"], []),
    "predict.GDMLPredict.set_R_desc": (["R_desc"], []),
    "predict.GDMLPredict.set_alphas": (["alphas_F", "alphas_E"], [None]),
    "predict.GDMLPredict.set_opt_num_workers_and_batch_size_fast": (["n_bulk", "n_reps"], [1, 1]),
    "predict._predict_wkr": (
        ["r", "r_desc_d_desc", "lat_and_inv", "glob_id", "wkr_start_stop", "chunk_size"],
        [None, None],
    ),
    "predict.share_array": (["arr_np"], []),
}


def parameters_of(function):
    parameters = list(inspect.signature(function).parameters.values())
    return [p for p in parameters if p.name != "self"]


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    module, *path = name.split(".")
    found = {"train": fastgdml.train, "predict": fastgdml.predict}[module]
    for part in path:
        found = getattr(found, part)
    names, defaults = SIGNATURES[name]
    parameters = parameters_of(found)
    assert [p.name for p in parameters[: len(names)]] == names
    assert [p.default for p in parameters[len(names) - len(defaults) : len(names)]] == defaults
    # what fastgdml adds comes behind and can be left out
    assert all(p.default is not inspect.Parameter.empty for p in parameters[len(names) :])
    assert inspect.getdoc(found)


def test_the_table_is_that_of_sgdml(peer):
    """The names above are right: sgdml's own signatures are the same."""
    code = """
import inspect, json, sys
import sgdml.train as train, sgdml.predict as predict
out = {}
for name in sys.argv[1:]:
    module, *path = name.split('.')
    found = {'train': train, 'predict': predict}[module]
    for part in path:
        found = getattr(found, part)
    parameters = [p for p in inspect.signature(found).parameters.values() if p.name != 'self']
    given = [repr(p.default) for p in parameters if p.default is not p.empty]
    out[name] = [p.name for p in parameters], given
print('OUT' + json.dumps(out))
"""
    printed = peer(code, *SIGNATURES)
    theirs = json.loads(next(line for line in printed.split("\n") if line.startswith("OUT"))[3:])
    for name, (names, defaults) in SIGNATURES.items():
        wanted = [names, [repr(default) for default in defaults]]
        assert theirs[name] == wanted, name


# ---- prediction -------------------------------------------------------------------------------------------------


@pytest.fixture
def predictor(ethanol_model):
    return GDMLPredict(ethanol_model)


def test_predict_uses_the_geometries_it_is_given(predictor, ethanol, ethanol_task):
    """sgdml ignores R once descriptors are set."""
    R = ethanol["R"][:4].reshape(4, -1)
    E, F = predictor.predict(R)
    x, g = fastgdml.train.from_R(ethanol_task["R_train"])
    predictor.set_R_desc(x)
    predictor.set_R_d_desc(g)
    np.testing.assert_array_equal(predictor.predict(R)[1], F)
    np.testing.assert_array_equal(predictor.predict(R)[0], E)
    E_train, F_train = predictor.predict()
    assert (E_train.shape, F_train.shape) == ((30,), (30, 27))
    R_train = ethanol_task["R_train"].reshape(30, -1)
    np.testing.assert_allclose(F_train, predictor.predict(R_train)[1], rtol=0, atol=1e-9)
    (only_F,) = predictor.predict(R, return_E=False)
    np.testing.assert_array_equal(only_F, F)
    (only_F,) = predictor.predict(return_E=False)
    np.testing.assert_array_equal(only_F, F_train)


def test_set_alphas_changes_the_model(predictor, ethanol, ethanol_task, ethanol_model):
    R = ethanol["R"][:4].reshape(4, -1)
    E, F = predictor.predict(R)
    with pytest.raises(UsageError, match="set_R_d_desc"):
        predictor.set_alphas(ethanol_model["alphas_F"])
    predictor.set_R_d_desc(fastgdml.train.from_R(ethanol_task["R_train"])[1])
    predictor.set_alphas(-2 * ethanol_model["alphas_F"])
    np.testing.assert_allclose(predictor.predict(R)[1], -2 * F, rtol=1e-9, atol=1e-9)
    predictor.set_alphas(ethanol_model["alphas_F"])
    np.testing.assert_allclose(predictor.predict(R)[0], E, rtol=0, atol=1e-9)


def test_set_alphas_leaves_copies_alone(predictor, ethanol, ethanol_task, ethanol_model):
    R = ethanol["R"][:4].reshape(4, -1)
    F = predictor.predict(R)[1]
    other = copy.copy(predictor)
    other.set_R_d_desc(fastgdml.train.from_R(ethanol_task["R_train"])[1])
    other.set_alphas(np.zeros(30 * 27))
    assert not other.predict(R)[1].any()
    np.testing.assert_array_equal(predictor.predict(R)[1], F)


def test_setters_of_processes_change_nothing(predictor, ethanol):
    R = ethanol["R"][:4].reshape(4, -1)
    F = predictor.predict(R)[1]
    predictor._set_num_workers(3, force_reset=True)
    predictor._set_chunk_size(7)
    predictor._set_batch_size(7)
    predictor._set_bulk_mp(True)
    predictor.set_num_workers(2)
    predictor.set_batch_size(5)
    np.testing.assert_array_equal(predictor.predict(R)[1], F)


def test_deprecated_benchmark(predictor):
    with pytest.warns(DeprecationWarning, match="prepare_parallel"):
        assert predictor.set_opt_num_workers_and_batch_size_fast(n_bulk=10) > 0


def test_gpu_batch(predictor, monkeypatch):
    assert predictor.get_GPU_batch() is None  # as sgdml answers on the CPU

    class Device:
        def batch_size(self, n_geo):
            return min(n_geo, 4096)

    monkeypatch.setattr(predictor, "_engine", Device())
    assert predictor.get_GPU_batch() == 4096


def test_a_worker_of_sgdml(predictor, ethanol):
    r = ethanol["R"][5].ravel()
    E, F = predictor.predict(r)
    whole = fastgdml.predict._predict_wkr(r, None, None, predictor.glob_id)
    assert whole.shape == (28,)
    np.testing.assert_allclose(whole[0] * predictor.std + predictor.c, E[0], rtol=1e-14)
    np.testing.assert_allclose(whole[1:] * predictor.std, F[0], rtol=1e-12)
    parts = [
        fastgdml.predict._predict_wkr(r, None, None, predictor.glob_id, wkr_start_stop=part, chunk_size=3)
        for part in ((0, 11), (11, 12), (12, 30))
    ]
    np.testing.assert_allclose(sum(parts), whole, rtol=0, atol=1e-9 * np.abs(whole).max())
    assert np.abs(parts[1]).max() > 0
    np.testing.assert_array_equal(predictor.predict(r)[1], F)  # untouched
    x, g = fastgdml.train.from_R(ethanol["R"][5:6])
    from_descriptors = fastgdml.predict._predict_wkr(None, (x[0], g[0]), None, predictor.glob_id)
    np.testing.assert_allclose(from_descriptors, whole, rtol=0, atol=1e-9 * np.abs(whole).max())
    with pytest.raises(UsageError, match="both are None"):
        fastgdml.predict._predict_wkr(None, None, None, predictor.glob_id)


def test_a_worker_of_a_predictor_on_the_gpu(ethanol_model, ethanol, monkeypatch):
    predictor = GDMLPredict(ethanol_model)
    r = ethanol["R"][5].ravel()
    part = fastgdml.predict._predict_wkr(r, None, None, predictor.glob_id, (0, 11))
    monkeypatch.setattr(predictor, "_engine", GPUPredictor.from_model(ethanol_model, np))
    on_gpu = fastgdml.predict._predict_wkr(r, None, None, predictor.glob_id, (0, 11))
    np.testing.assert_allclose(on_gpu, part, rtol=1e-9)


def test_numbers_of_predictors(ethanol_model):
    one, other = GDMLPredict(ethanol_model), GDMLPredict(ethanol_model)
    number = one.glob_id
    assert number != other.glob_id
    assert one.glob_id == number
    assert copy.copy(other).glob_id == other.glob_id
    del one
    gc.collect()
    with pytest.raises(UsageError, match=f"no predictor of number {number}"):
        fastgdml.predict._predict_wkr(np.zeros(27), None, None, number)


PEER_WORKER = """
import sys
import sgdml.predict
from sgdml.predict import GDMLPredict, _predict_wkr
with np.load(sys.argv[1]) as model, np.load(sys.argv[2]) as arrays:
    predictor = GDMLPredict(model, max_processes=1)
    out = [_predict_wkr(arrays['r'], None, None, predictor.glob_id, part) for part in (None, (0, 11), (11, 30))]
np.savez(sys.argv[3], out=out)
"""


def test_a_worker_equals_that_of_sgdml(tmp_path, peer, predictor, ethanol, ethanol_model):
    r = ethanol["R"][5].ravel()
    np.savez(tmp_path / "model.npz", **ethanol_model)
    np.savez(tmp_path / "r.npz", r=r)
    peer(PEER_WORKER, tmp_path / "model.npz", tmp_path / "r.npz", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as file:
        for part, wanted in zip((None, (0, 11), (11, 30)), file["out"], strict=True):
            found = fastgdml.predict._predict_wkr(r, None, None, predictor.glob_id, part)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())


# ---- training ---------------------------------------------------------------------------------------------------


def test_shared_arrays():
    array = np.arange(6.0).reshape(2, 3)
    for shared, shape in (fastgdml.predict.share_array(array), fastgdml.train._share_array(array, "d")):
        assert shape == (2, 3)
        np.testing.assert_array_equal(np.frombuffer(shared).reshape(shape), array)
    shared, shape = fastgdml.train._share_array([1, 2, 3], ctypes.c_int32)
    assert (list(shared), shape) == ([1, 2, 3], (3,))


@pytest.fixture
def shared_kernel(reference, monkeypatch):
    """sgdml's global arrays, as its worker functions expect them."""
    glob = fastgdml.train.glob
    for key in ("R_desc", "R_d_desc"):
        monkeypatch.setitem(glob, key, fastgdml.train._share_array(reference[key], "d")[0])
        monkeypatch.setitem(glob, f"{key}_shape", reference[key].shape)
    monkeypatch.setitem(glob, "K", fastgdml.train._share_array(np.full(reference["K"].shape, np.nan), "d")[0])
    monkeypatch.setitem(glob, "K_shape", reference["K"].shape)
    return np.frombuffer(glob["K"]).reshape(glob["K_shape"]), reference


def test_kernel_worker(shared_kernel):
    K, reference = shared_kernel
    n_train, n_coord = len(reference["R_desc"]), 3 * reference["R_train"].shape[1]
    arguments = (reference["tril_perms_lin"], float(reference["sig"]), bool(reference["use_E_cstr"]))
    assert fastgdml.train._assemble_kernel_mat_wkr(1, *arguments) == n_coord
    own = slice(n_coord, 2 * n_coord)
    scale = np.abs(reference["K"]).max()
    np.testing.assert_allclose(K[:, own], reference["K"][:, own], rtol=0, atol=1e-12 * scale)
    assert np.isnan(np.delete(K, np.s_[own], axis=1)).all()
    assert fastgdml.train._assemble_kernel_mat_wkr(0, *arguments, exploit_sym=True, cols_m_limit=n_train - 1) == n_coord
    np.testing.assert_allclose(K[:, :n_coord], reference["K"][:, :n_coord], rtol=0, atol=1e-12 * scale)
    filled = slice(0, (n_train - 1) * n_coord)
    np.testing.assert_allclose(K[:n_coord, filled], reference["K"][:n_coord, filled], rtol=0, atol=1e-12 * scale)
    # some coordinates of a point, at another place
    assert fastgdml.train._assemble_kernel_mat_wkr((5, 2, [0, 4]), *arguments) == 2
    wanted = reference["K"][:, 2 * n_coord + np.array([0, 4])]
    np.testing.assert_allclose(K[:, 5:7], wanted, rtol=0, atol=1e-12 * scale)


def test_kernel_worker_needs_shared_arrays():
    with pytest.raises(UsageError, match="_assemble_kernel_mat"):
        fastgdml.train._assemble_kernel_mat_wkr(0, np.arange(3), 10)


def test_kernel_matrix_with_columns_and_rows(reference):
    arguments = (reference["R_desc"], reference["R_d_desc"], reference["tril_perms_lin"], float(reference["sig"]))
    K = GDMLTrain()._assemble_kernel_mat(
        *arguments, None, bool(reference["use_E_cstr"]), col_idxs=[0, 3, 7], alloc_extra_rows=2
    )
    n_rows = len(reference["K"])
    assert K.shape == (n_rows + 2, 3)
    np.testing.assert_allclose(
        K[:n_rows], reference["K"][:, [0, 3, 7]], rtol=0, atol=1e-12 * np.abs(reference["K"]).max()
    )
