import os
import pickle
import zipfile

import numpy as np
import pytest

from fastgdml.errors import FileFormatError
from fastgdml.model import load_model
from fastgdml.npz import load_npz, save_npz
from fastgdml.predict import GDMLPredict


def test_round_trip(tmp_path):
    entries = {
        "f8": np.random.default_rng(0).normal(size=(3, 4)),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "i4": np.arange(3, dtype=np.int32),
        "flag": np.array(True),
        "text": np.array("ethanol"),
        "bytes": np.array(b"abc"),
        "empty": np.empty((0, 3)),
        "number": 1.5,
    }
    save_npz(tmp_path / "a.npz", entries)
    loaded = load_npz(tmp_path / "a.npz")
    assert loaded.keys() == entries.keys()
    for key, value in entries.items():
        np.testing.assert_array_equal(loaded[key], value)
        assert loaded[key].dtype == np.asarray(value).dtype
    assert load_npz(tmp_path / "a.npz", {"f8", "missing"}).keys() == {"f8"}


def test_numpy_reads_it_without_pickle(tmp_path):
    save_npz(tmp_path / "a.npz", {"x": np.arange(3.0)})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["x"], np.arange(3.0))


def test_same_content_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        save_npz(tmp_path / name, {"x": np.arange(3.0)})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_objects_are_never_written(tmp_path):
    with pytest.raises(FileFormatError, match="'bad' holds Python objects"):
        save_npz(tmp_path / "a.npz", {"bad": {"mae": 1}})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    save_npz(path, {"x": np.arange(3.0)})
    before = path.read_bytes()

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(FileFormatError, match="No space left"):
        save_npz(path, {"x": np.zeros(3)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileFormatError, match="could not be written"):
        save_npz(tmp_path / "no" / "a.npz", {"x": 1.0})


class Hostile:
    def __reduce__(self):
        return (os.system, (f"touch {os.environ['FASTGDML_TEST_MARK']}",))


@pytest.mark.parametrize("wrap", [lambda h: h, lambda h: {"mae": h}, lambda h: [1, (h,)]])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, monkeypatch, wrap):
    mark = tmp_path / "mark"
    monkeypatch.setenv("FASTGDML_TEST_MARK", str(mark))
    array = np.empty((), dtype=object)
    array[()] = wrap(Hostile())
    path = tmp_path / "model.npz"
    np.savez(path, type="m", f_err=array)
    with pytest.raises(FileFormatError, match=r"f_err holds a pickled object .*system"):
        load_model(path)
    assert not mark.exists()
    # the same file does run code where pickles are trusted: the test would notice
    with np.load(path, allow_pickle=True) as file:
        file["f_err"]
    assert mark.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n.",
        b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
        b"garbage",
        b"",
    ],
)
def test_other_pickles_are_refused(tmp_path, payload):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (), "fortran_order": False, "descr": "|O"})
        file.write(payload)
    with pytest.raises(FileFormatError, match="pickled object"):
        load_npz(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_in_pickles_is_read(tmp_path, protocol):
    value = {"mae": np.float64(0.5), "rmse": 0.25, "list": [1, None, "a"], "array": np.arange(3)}
    array = np.empty((), dtype=object)
    array[()] = value
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (), "fortran_order": False, "descr": "|O"})
        pickle.dump(array, file, protocol=protocol)
    loaded = load_npz(path)["x"]
    np.testing.assert_array_equal(loaded.pop("array"), value.pop("array"))
    assert loaded == value


def test_legacy_models_load_and_predict(shared):
    model = load_model(shared("data/legacy_model_1h2o_sgdml049.npz"))
    assert float(model["f_err_mae"]) == pytest.approx(0.0104603, abs=1e-6)
    water = np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.470], [0.0, -0.757, -0.470]])
    E, F = GDMLPredict(model).predict(water.reshape(1, -1))
    # near the minimum: small forces, and the energy of a water molecule in kcal/mol at the model's level of theory
    assert -48000 < E[0] < -47000
    assert np.abs(F).max() < 30
    np.testing.assert_allclose(F.reshape(3, 3).sum(axis=0), 0, atol=1e-10)


@pytest.mark.parametrize("cut", [0, 1, 100, 5000])
def test_truncated_files_are_refused(tmp_path, cut):
    path = tmp_path / "a.npz"
    save_npz(path, {"x": np.random.default_rng(0).normal(size=5000)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FileFormatError, match=r"a\.npz"):
        load_npz(path)


def test_damaged_bytes_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    save_npz(path, {"x": np.random.default_rng(0).normal(size=500)})
    data = bytearray(path.read_bytes())
    data[300] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(FileFormatError):
        load_npz(path)


def test_headers_that_lie_about_the_size_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (10**12,), "fortran_order": False, "descr": "<f8"})
        file.write(b"\0" * 80)
    with pytest.raises(FileFormatError, match="claims"):
        load_npz(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileFormatError, match="no such file"):
        load_npz(tmp_path / "none.npz")
    with pytest.raises(FileFormatError, match="is a directory"):
        load_npz(tmp_path)


class Forged:
    """Pickles as a call of numpy's functions with a forged state, as an attacker would write it."""

    def __init__(self, function, args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts


def forged_dtype():
    """A structured type that hides that it holds objects: NumPy would take its bytes for pointers."""
    return Forged(np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0))


@pytest.mark.parametrize(
    "content",
    [
        lambda: {"mae": Forged(np._core.multiarray.scalar, (forged_dtype(), b"A" * 8))},
        lambda: Forged(
            np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, (1,), forged_dtype(), False, b"A" * 8)
        ),
        lambda: Forged(np._core.multiarray.scalar, (np.dtype("O"), b"A" * 8)),
        lambda: Forged(np._core.multiarray.scalar, (np.dtype("f8"), b"A" * 7)),
        lambda: Forged(np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b")),
        lambda: Forged(
            np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, (9,), np.dtype("f8"), False, b"A" * 8)
        ),
    ],
)
def test_forged_arrays_are_refused(tmp_path, content):
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("f_err.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (), "fortran_order": False, "descr": "|O"})
        file.write(pickle.dumps(content()))
    with pytest.raises(FileFormatError, match="pickled object"):
        load_npz(path)
