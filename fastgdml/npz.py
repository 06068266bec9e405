"""Reading and writing npz archives, without ever executing what is in them.

Archives are written without pickles, to a temporary file that replaces the target once it is complete. Archives of
other programs may hold pickled objects (sgdml stores its error dictionaries so); those are decoded by an unpickler
that knows NumPy arrays and plain data and refuses everything else.
"""

from __future__ import annotations

import io
import os
import pickle
import secrets
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import FileFormatError

_MAX_HEADER = 10_000


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
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise FileFormatError(
            f"{path} is no readable npz archive ({error}). It may be truncated or of another kind."
        ) from None


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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            (np.savez_compressed if compress else np.savez)(file, **arrays)
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


def _scalar(dtype: np.dtype, data: bytes) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise pickle.UnpicklingError("scalar of Python objects")
    return np.frombuffer(data, dtype=dtype, count=1)[0]


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("unusual array")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("unusual text encoding")
    return text.encode("latin1")


def _frombuffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or order not in ("C", "F"):
        raise pickle.UnpicklingError("unusual array")
    return np.frombuffer(bytearray(buffer), dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


_ADMITTED = {
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
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
        return _PlainDataUnpickler(io.BytesIO(data), encoding="latin1").load()
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
