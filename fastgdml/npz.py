"""Reading and writing npz archives, without ever executing what is in them.

Archives are written without pickles, to a temporary file that replaces the target once it is complete. Archives of
other programs may hold pickled objects (sgdml stores its error dictionaries so); those are decoded by an unpickler
that knows NumPy arrays and plain data and refuses everything else.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import secrets
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import FileFormatError

_MAX_HEADER = 10_000
# The first bytes of flat model files.
_FLAT = b"FASTGDML"


def load_npz(path: str | os.PathLike[str], keys: set[str] | None = None) -> dict[str, Any]:
    """Read an npz archive.

    Parameters
    ----------
    path : path-like
        The file.
    keys : set of str, optional
        Read only these entries, where present.

    Returns
    -------
    dict
        Arrays by key. Entries that held a pickled object give that object if it is made of plain data.

    Raises
    ------
    FileFormatError
        If the file is missing, no npz archive, damaged, or holds objects other than plain data.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {i.filename.removesuffix(".npy"): i for i in archive.infolist() if i.filename.endswith(".npy")}
            wanted = {k: i for k, i in members.items() if keys is None or k in keys}
            return {key: _read_member(archive, info, f"{path}: {key}") for key, info in wanted.items()}
    except FileNotFoundError:
        raise FileFormatError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise FileFormatError(f"{path} is a directory; an npz file is needed.") from None
    except PermissionError:
        raise FileFormatError(f"{path}: no permission to read it.") from None
    except zipfile.BadZipFile as error:
        if is_flat(path):
            raise FileFormatError(
                f"{path} is a flat model file, which holds what prediction needs and no more. Give the npz file that "
                "it was exported from."
            ) from None
        raise _unreadable(path, error) from None
    except (zlib.error, EOFError, NotImplementedError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> FileFormatError:
    return FileFormatError(f"{path} is no readable npz archive ({error}). It may be truncated or of another kind.")


def is_flat(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a flat model file (`fastgdml.flat`), by its first bytes; False if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_FLAT)) == _FLAT
    except OSError:
        return False


def save_npz(path: str | os.PathLike[str], entries: Mapping[str, Any], compress: bool = False) -> None:
    """Write an npz archive atomically: the target is either the old file or the complete new one.

    Parameters
    ----------
    path : path-like
        The file; replaced if it exists.
    entries : mapping
        Arrays, or what `numpy.asarray` turns into arrays of numbers or text.
    compress : bool
        Compress the entries. Coefficients hardly shrink, and compression takes longer than small trainings.

    Raises
    ------
    FileFormatError
        If an entry is not made of numbers or text, or the file cannot be written.
    """
    path = Path(path)
    arrays = {key: np.asanyarray(value) for key, value in entries.items()}
    for key, array in arrays.items():
        if array.dtype.hasobject:
            raise FileFormatError(f"{path}: entry '{key}' holds Python objects, which are never written.")
    with replacing(path) as file:
        (np.savez_compressed if compress else np.savez)(file, **arrays)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` once it is complete; an exception leaves the old file.

    Raises
    ------
    FileFormatError
        If the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise FileFormatError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename durable, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows has no folder descriptors
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse
        pass
    finally:
        os.close(descriptor)


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> Any:
    with archive.open(info) as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(file, max_header_size=_MAX_HEADER)
        except ValueError as error:
            raise FileFormatError(f"{where} is no array ({error}). The file is damaged.") from None
        if dtype.hasobject:
            return _plain(_unpickle(file.read(), where))
        n_bytes = dtype.itemsize * int(np.prod(shape, dtype=object))
        if n_bytes > info.file_size:
            raise FileFormatError(f"{where} claims {n_bytes} bytes but holds {info.file_size}. The file is damaged.")
        data = file.read(n_bytes)
        if len(data) != n_bytes or file.read(1):
            raise FileFormatError(f"{where} holds another number of bytes than its header says. The file is damaged.")
        array = np.frombuffer(bytearray(data), dtype=dtype)
        return array.reshape(shape, order="F" if fortran else "C")


# ---- pickled entries of other programs --------------------------------------------------------------------------
#
# A pickle builds objects by calling functions and by handing them a state. NumPy's own classes trust the state they are
# given: a forged dtype makes NumPy take bytes for pointers. So the names that pickles of arrays refer to lead to the
# stand-ins below, which only note what they are told; checked arrays are made from the notes afterwards.


class _PickledDtype:
    """Stands for numpy.dtype: a plain number, text or object type and its byte order."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[biufcSUO]\d{0,9}|\?", code)):
            raise pickle.UnpicklingError(f"type {code!r}")
        self._code = code
        self._order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subarray, names, fields = state[:5]
        if (subarray, names, fields) != (None, None, None) or order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("structured type")
        self._order = order

    def make(self) -> np.dtype:
        dtype = np.dtype(self._code)
        return dtype.newbyteorder(">") if self._order == ">" else dtype


class _PickledArray:
    """Stands for numpy.ndarray."""

    def __init__(self) -> None:
        self._state: tuple[Any, ...] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._state = state

    def make(self) -> np.ndarray:
        if self._state is None:
            raise pickle.UnpicklingError("array without content")
        _, shape, dtype, fortran, data = self._state
        return _make_array(dtype, data, shape, "F" if fortran else "C")


def _make_array(dtype: Any, data: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
    if not isinstance(dtype, _PickledDtype) or order not in ("C", "F"):
        raise pickle.UnpicklingError("unusual array")
    kind = dtype.make()
    if kind.hasobject:
        array = np.empty(len(data), dtype=object)
        for i, item in enumerate(list(data)):
            array[i] = _make_plain(item)
    else:
        array = np.frombuffer(bytearray(_to_bytes(data)), dtype=kind)
    return array.reshape(shape, order="F" if order == "F" else "C")


def _make_plain(value: Any) -> Any:
    """Replace stand-ins in unpickled data by what they stand for."""
    if isinstance(value, _PickledArray):
        return value.make()
    if isinstance(value, dict):
        return {_make_plain(key): _make_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_make_plain(item) for item in value)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic | np.ndarray):
        return value
    raise pickle.UnpicklingError(f"{type(value).__name__}")


def _to_bytes(data: Any) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _scalar(dtype: Any, data: Any) -> Any:
    return _make_array(dtype, data, (1,), "C")[0]


def _reconstruct(kind: Any, shape: tuple[int, ...], code: bytes) -> _PickledArray:
    if kind is not _PickledArray or shape != (0,):
        raise pickle.UnpicklingError("unusual array")
    return _PickledArray()


def _frombuffer(buffer: Any, dtype: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
    return _make_array(dtype, buffer, shape, order)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("unusual text encoding")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledDtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
}


class _PlainDataUnpickler(pickle.Unpickler):
    """Admits NumPy arrays, NumPy scalars and built-in containers; imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}") from None


def _unpickle(data: bytes, where: str) -> Any:
    try:
        return _make_plain(_PlainDataUnpickler(io.BytesIO(data), encoding="latin1").load())
    except Exception as error:  # a hostile pickle may raise anything
        raise FileFormatError(
            f"{where} holds a pickled object that is not plain data ({error}). Such an object can run code when it "
            "is opened; fastgdml refuses it. Remove the entry, or ask for the file without pickles."
        ) from None


def _plain(value: Any) -> Any:
    """Unwrap an object array of one element, as NumPy stores dictionaries and None."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.shape == ():
        return value.item()
    return value
