"""Archives and pickles that are small and want to be large, or are not what they seem."""

import io
import os
import random
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from fastgdml import memory
from fastgdml.errors import FastGDMLError, FileFormatError, InsufficientMemoryError
from fastgdml.npz import is_flat, kind_of, load_npz, save_npz
from fastgdml.plain_pickles import UnsafePickleError, load_plain


def doubled(first, twice):
    """The pickle of a thing that holds the one before it twice, forty times."""
    steps = (twice % (bytes([i - 1]), bytes([i - 1])) + b"q" + bytes([i]) for i in range(1, 40))
    return first + b"q\x00" + b"".join(steps)


LAUGHS, TUPLES = doubled(b"]", b"](h%bh%be"), doubled(b")", b"h%bh%b\x86")
F8 = b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R"
SCALAR = b"cnumpy.core.multiarray\nscalar\n"

HOSTILE_PICKLES = {
    "lists in one another": LAUGHS + b".",
    "a key that is hashed for ever": b"}" + TUPLES + b"Ns.",
    "an array of nothing": SCALAR + F8 + b"\x8a\x05" + (10**9).to_bytes(5, "little") + b"\x86R.",
    "a string of 4 GB that is not there": b"\x8e" + (2**32).to_bytes(8, "little") + b".",
    "bytes of 4 GB that are not there": b"\x96" + (2**32).to_bytes(8, "little") + b".",
    "an integer of many digits": b"\x8b" + (9000).to_bytes(4, "little") + b"\x7f" * 9000 + b".",
    "a list in itself": b"]q\x00h\x00a.",
    "a state for a list": b"]N)b.",
    "a call of a text": b"X\x01\x00\x00\x00a)R.",
    "a mark too few": b"Ne.",
    "nothing on the stack": b".",
    "a memory that is not there": b"h\x07.",
    "an extension": b"\x82\x01.",
    "an object": b"cnumpy\nndarray\n)\x81.",
    "one string for many arrays": b"X\x00\x10\x00\x00"
    + b"a" * 4096
    + b"q\x000("
    + (SCALAR + b"cnumpy\ndtype\nX\x05\x00\x00\x00S4096\x85Rh\x00\x86R") * 2000
    + b"l.",
    "many empty texts": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    b"(K\x01(J\xff\xff\xff\x7ftcnumpy\ndtype\nX\x02\x00\x00\x00S0\x85R\x89C\x00tb.",
}


@pytest.mark.parametrize("name", HOSTILE_PICKLES)
def test_hostile_pickles_are_refused_in_little_memory(name):
    tracemalloc.start()
    try:
        with pytest.raises(UnsafePickleError):
            load_plain(b"\x80\x02" + HOSTILE_PICKLES[name])
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_a_large_number_of_a_place_in_memory_takes_none():
    tracemalloc.start()
    assert load_plain(b"\x80\x02Nr\xff\xff\xff\x3f.") is None
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def archive(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)


def npy(header, data=b""):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + data


def header(shape, descr="'<f8'", fortran="False"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


DAMAGED = {
    "negative": npy(header("(-1, -1)"), b"\0" * 8),
    "0 times much": npy(header(f"(0, {10**30})")),
    "flags": npy(header("(True,)"), b"\0" * 8),
    "many empty texts": npy(header(f"({10**12},)", "'S0'")),
    "arithmetic": npy("{'descr': " + "-" * 4000 + "1, 'fortran_order': False, 'shape': (), }"),
    "cut": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3"),
    "no characters": npy(header("()", "'<U1'"), b"\xff\xff\xff\x7f"),
    "too short": npy(header("(3,)"), b"\0" * 23),
    "too long": npy(header("(3,)"), b"\0" * 25),
    "nothing": b"",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_arrays_are_refused(tmp_path, name):
    archive(tmp_path / "x.npz", [("x.npy", DAMAGED[name])])
    with pytest.raises(FileFormatError, match=r"x\.npz"):
        load_npz(tmp_path / "x.npz")


def zeros(n_bytes):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(n_bytes // 8))
    return buffer.getvalue()


def test_what_nobody_needs_is_not_inflated_when_it_is_large(tmp_path, caplog):
    path = tmp_path / "x.npz"
    members = [("a.npy", npy(header("(2,)"), b"\0" * 16)), ("small.npy", zeros(800)), ("large.npy", zeros(10**8))]
    archive(path, members, zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    assert load_npz(path, needed={"a"}).keys() == {"a", "small"}
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert "'large', which fastgdml does not use, is left out" in caplog.text
    assert load_npz(path).keys() == {"a", "small", "large"}


def test_entries_that_do_not_fit_are_not_inflated(tmp_path, monkeypatch):
    archive(tmp_path / "x.npz", [("a.npy", zeros(6 * 10**7)), ("b.npy", zeros(6 * 10**7))], zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(memory, "available", lambda: 10**8)
    assert load_npz(tmp_path / "x.npz", {"a"}).keys() == {"a"}
    tracemalloc.start()
    with pytest.raises(InsufficientMemoryError, match=r"0\.112 GB"):
        load_npz(tmp_path / "x.npz")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def changed(path, offset_local, offset_central, value):
    """Change a byte of the headers of all members."""
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", offset_local), (b"PK\1\2", offset_central)):
        at = data.find(signature)
        while at >= 0:
            data[at + offset] = value
            at = data.find(signature, at + 4)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [((6, 8, 1), "is encrypted"), ((8, 10, 12), "compressed by a method"), ((25, 27, 0x70), "more than the .* stored")],
)
def test_members_that_numpy_does_not_write_are_refused(tmp_path, change, message):
    path = tmp_path / "x.npz"
    save_npz(path, {"x": np.arange(30.0)})
    changed(path, *change)
    with pytest.raises(FileFormatError, match=message):
        load_npz(path)
    assert kind_of(path) == "npz archive of no known type"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(tmp_path):
    archive(tmp_path / "x.npz", [("x.npy", zeros(80)), ("x.npy", zeros(160))])
    with pytest.raises(FileFormatError, match="two entries named 'x'"):
        load_npz(tmp_path / "x.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_pipes_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(FileFormatError, match="special file"):
        load_npz(tmp_path / "x.npz")
    assert not is_flat(tmp_path / "x.npz")


def test_random_damage_is_told(tmp_path):
    """Bytes changed, lost or added at random: the file loads, or the error is ours."""
    path = tmp_path / "x.npz"
    objects = np.empty((), dtype=object)
    objects[()] = {"mae": np.float64(1), "rmse": [np.arange(3), "a"]}
    np.savez(path, type="m", a=np.arange(60.0), z=np.arange(9), name="abc", f_err=objects)
    whole, rng, told = path.read_bytes(), random.Random(0), 0
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 2, 5])):
            at, what = rng.randrange(len(data)), rng.random()
            if what < 0.7:
                data[at] = rng.randrange(256)
            elif what < 0.85:
                del data[at : at + rng.randrange(1, 9)]
            else:
                data[at:at] = bytes(rng.randrange(1, 9))
        path.write_bytes(data)
        try:
            load_npz(path)
        except FastGDMLError:
            told += 1
    assert told > 700
