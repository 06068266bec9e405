import datetime
import gc
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest

from fastgdml.dataset import save_dataset
from fastgdml.errors import FileFormatError
from fastgdml.exchange import export_sgdml
from fastgdml.flat import export_flat
from fastgdml.model import load_model, save_model
from fastgdml.npz import (
    ARCHIVE,
    DATASET,
    FLAT_MODEL,
    MODEL,
    SGDML_MODEL,
    TASK,
    kind_of,
    load_npz,
    require_target,
    save_npz,
    text,
)
from fastgdml.predict import GDMLPredict
from fastgdml.task import save_task


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


def interrupted_at(line, function, *arguments):
    """Call a function, interrupted before the given line of those that it runs; return whether it has so many."""
    left = line

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_name == "__del__":  # Python lets no exception out of these
            return None
        if event == "line":
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*arguments)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(previous)
    return False


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # interrupted before anybody had them to close
@pytest.mark.parametrize("compress", [False, True])
def test_an_interruption_at_any_line_leaves_a_whole_file_and_says_nothing(tmp_path, monkeypatch, compress):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", lambda event: said.append(f"{event.object}: {event.exc_value!r}"))
    path = tmp_path / "a.npz"
    whole = []
    for value in (0.0, 1.0):
        save_npz(path, {"x": np.full(3, value), "y": value}, compress)
        whole.append(path.read_bytes())
    line, seen = 0, set()
    while interrupted_at(line, save_npz, path, {"x": np.zeros(3), "y": 0.0}, compress):
        content = path.read_bytes()
        assert content in whole, line
        seen.add(whole.index(content))
        path.write_bytes(whole[1])
        line += 1
    gc.collect()  # no file is left to warn in another test
    assert line > 300
    assert seen == {0, 1}
    assert said == []
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


# ---- every array is the one that NumPy reads --------------------------------------------------------------------


def assert_same(found, expected):
    """Compare what was read with what NumPy reads: values, types, byte order, shapes, and all that is within."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        if expected.dtype == object:
            for one, other in zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True):
                assert_same(one, other)
        else:
            np.testing.assert_array_equal(found, expected)
    else:
        assert type(found) is type(expected)
        np.testing.assert_array_equal(found, expected)  # nan is nan


def assert_read_as_numpy_reads(path):
    with np.load(path, allow_pickle=True) as file:
        expected = {key: file[key] for key in file.files}
    expected = {
        key: value.item() if value.dtype == object and value.shape == () else value for key, value in expected.items()
    }
    assert_same(load_npz(path), expected)


DTYPES = ["?", "i1", "u2", "<i4", ">i4", "<f2", "<f4", ">f4", "<f8", ">f8", "<c16", ">c16", "S3", "<U4", ">U4", "O"]
SHAPES = [(), (1,), (5,), (0,), (2, 3), (3, 0), (2, 3, 4), (1, 3, 3)]
ORDERS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "transposed": lambda a: a.copy().T,
    "axes exchanged": lambda a: np.swapaxes(a.copy(), 0, a.ndim - 1) if a.ndim > 1 else a,
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2] if a.ndim else a,
    "reversed": lambda a: a[::-1] if a.ndim else a,
}


def some_array(dtype, shape, order):
    numbers = np.arange(int(np.prod(shape))) + 1
    array = numbers.astype(object) * 0.5 if dtype == "O" else numbers.astype(dtype)
    return ORDERS[order](array.reshape(shape)) if shape else array.reshape(shape)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_equal_those_of_numpy(tmp_path, dtype, order):
    np.savez(tmp_path / "a.npz", **{str(shape): some_array(dtype, shape, order) for shape in SHAPES})
    assert_read_as_numpy_reads(tmp_path / "a.npz")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ORDERS)
def test_arrays_within_objects_equal_those_of_numpy(tmp_path, order, protocol):
    arrays = {f"{dtype} {shape}": some_array(dtype, shape, order) for dtype in DTYPES for shape in SHAPES}
    arrays |= {"scalars": [np.float32(1.5), np.int64(2), np.bool_(True), np.str_("a"), np.float64("nan")]}
    nested = np.empty((2, 2), dtype=object, order="F")
    nested[0, 0], nested[0, 1], nested[1, 0], nested[1, 1] = (
        arrays,
        None,
        ("a", [b"b", 1.5]),
        np.asfortranarray(np.eye(2)),
    )
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (2, 2), "fortran_order": True, "descr": "|O"})
        pickle.dump(nested, file, protocol=protocol)
    assert_read_as_numpy_reads(path)


def test_other_arrays_equal_those_of_numpy(tmp_path):
    structured = np.array([(1, 2.5, "a")], dtype=[("i", ">i4"), ("длина", "<f8"), ("t", "<U3")])
    with pytest.warns(UserWarning, match="format 3"):
        np.savez(
            tmp_path / "a.npz",
            structured=structured,
            time=np.array(["2024-01-01"], dtype="M8[D]"),
            nothing=np.empty(3, dtype="S0"),
            record=np.zeros(2, dtype=[("a", "f4", (3,))]),
            void=np.zeros(2, dtype="V5"),
        )
    assert_read_as_numpy_reads(tmp_path / "a.npz")


def test_an_entry_that_is_not_needed_spoils_no_file(tmp_path, caplog):
    np.savez(tmp_path / "a.npz", x=np.arange(3.0), created=np.array(datetime.datetime(2024, 1, 1), dtype=object))
    assert load_npz(tmp_path / "a.npz", needed={"x"}).keys() == {"x"}
    assert "entry 'created', which fastgdml does not use, is left out" in caplog.text
    with pytest.raises(FileFormatError, match="created holds a pickled object"):
        load_npz(tmp_path / "a.npz")


def test_texts():
    for value in ("eV", b"eV", np.array("eV"), np.array(b"eV"), np.array(["eV"] * 5), np.array("eV", dtype=object)):
        assert text(value) == "eV"
    assert text(np.array(["a", "b"])) == "['a' 'b']"


# ---- kinds of files ---------------------------------------------------------------------------------------------


@pytest.fixture
def kinds(tmp_path, ethanol, ethanol_task, ethanol_model):
    """One file of each kind, and what it is."""
    folder = tmp_path / "kinds"
    folder.mkdir()
    save_dataset(folder / "dataset", ethanol)
    np.savez(folder / "arrays.npz", **{key: ethanol[key] for key in "zRF"})
    save_task(folder / "task", ethanol_task)
    save_model(folder / "model", ethanol_model)
    export_sgdml(folder / "sgdml", ethanol_model)
    export_flat(folder / "flat", ethanol_model)
    np.savez(folder / "other.npz", x=1)
    (folder / "notes").write_text("Ångström\n" * 100)
    (folder / "picture").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (folder / "bytes").write_bytes(bytes(range(256)))
    (folder / "damaged").write_bytes((folder / "model").read_bytes()[:3000])
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    with zipfile.ZipFile(folder / "zip", "w") as archive:
        archive.writestr("a.txt", "a")
    return {
        folder / name: kind
        for name, kind in {
            "dataset": DATASET,
            "arrays.npz": DATASET,
            "task": TASK,
            "model": MODEL,
            "sgdml": SGDML_MODEL,
            "flat": FLAT_MODEL,
            "other.npz": ARCHIVE,
            "notes": "text file",
            "picture": "picture",
            "bytes": "file of another program",
            "damaged": "damaged npz archive",
            "folder": "directory",
            "pipe": "special file",
            "zip": "zip archive",
        }.items()
    }


def test_a_file_is_replaced_by_its_kind_only(kinds, ethanol, ethanol_task, ethanol_model):
    writers = {
        DATASET: (save_dataset, ethanol),
        TASK: (save_task, ethanol_task),
        MODEL: (save_model, ethanol_model),
        SGDML_MODEL: (export_sgdml, ethanol_model),
        FLAT_MODEL: (export_flat, ethanol_model),
    }
    for path, kind in kinds.items():
        assert kind_of(path) == kind
        before = path.read_bytes() if path.is_file() else None
        for written, (write, content) in writers.items():
            if written == kind:
                write(path, content)
                assert kind_of(path) == kind
                before = path.read_bytes()
                continue
            with pytest.raises(FileFormatError, match=f"is a {kind}, and is never replaced by a {written}"):
                write(path, content)
            assert kind_of(path) == kind
            assert before is None or path.read_bytes() == before
    assert sorted(p.name for p in next(iter(kinds)).parent.iterdir()) == sorted(p.name for p in kinds)


def test_an_empty_file_may_be_replaced(tmp_path, ethanol_model):
    (tmp_path / "m").touch()
    assert kind_of(tmp_path / "m") is None
    save_model(tmp_path / "m", ethanol_model)
    assert kind_of(tmp_path / "m") == MODEL


def test_targets_are_tried_before_the_work(tmp_path):
    require_target(tmp_path / "a.npz", MODEL)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("a")
    for target, message in (
        (tmp_path / "no" / "a.npz", "there is no folder"),
        (tmp_path / "file" / "a.npz", "there is no folder"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path, "is a directory"),
        ("", "empty"),
        ("a\0b", "null byte"),
    ):
        with pytest.raises(FileFormatError, match=message):
            require_target(target, MODEL)
        with pytest.raises(FileFormatError):
            save_npz(target, {"x": 1.0})
        with pytest.raises(FileFormatError):
            load_npz(target)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    save_npz(tmp_path / ("x" * 255), {"x": 1.0})
    assert [len(p.name) for p in tmp_path.iterdir()] == [255]
