"""Reading and writing npz archives, without ever executing what is in them.

Archives are written without pickles, to a temporary file that replaces the target once it is complete. A file is only
replaced by one of its kind (`kind_of`). Archives of other programs may hold pickled objects (sgdml stores its error
dictionaries so); those are decoded by an unpickler that knows NumPy arrays and plain data and refuses everything else.
"""

from __future__ import annotations

import io
import logging
import lzma
import os
import pickle
import re
import secrets
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from .errors import FileFormatError, UsageError

_log = logging.getLogger(__name__)

_MAX_HEADER = 10_000
# The first bytes of flat model files.
_FLAT = b"FASTGDML"

# Kinds of files that fastgdml writes; see `kind_of`.
DATASET = "dataset"
TASK = "task"
MODEL = "model"
SGDML_MODEL = "model in the format of sgdml"
FLAT_MODEL = "flat model file"
TRAJECTORY = "trajectory of ASE"
ARCHIVE = "npz archive of no known type"
TEXT = "text file"
PICTURE = "picture"
PDF = "PDF document"

_KINDS = {"d": DATASET, "t": TASK, "m": MODEL}


def load_npz(
    path: str | os.PathLike[str], keys: set[str] | None = None, needed: Collection[str] | None = None
) -> dict[str, Any]:
    """Read an npz archive.

    Parameters
    ----------
    path : path-like
        The file.
    keys : set of str, optional
        Read only these entries, where present.
    needed : collection of str, optional
        Entries that must be readable, all by default. Of the others, pickled objects that are not plain data are left
        out with a warning.

    Returns
    -------
    dict
        Arrays by key. Entries that held a pickled object give that object if it is made of plain data.

    Raises
    ------
    FileFormatError
        If the file is missing, no npz archive, damaged, or holds objects other than plain data.
    """
    what = path_type(path)
    path = Path(path)
    if what == "nothing":
        raise FileFormatError(f"{path}: no such file.")
    if what != "file":
        raise FileFormatError(f"{path} is a {what}; an npz file is needed.")
    entries = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for key, info in _members(archive).items():
                if keys is not None and key not in keys:
                    continue
                try:
                    entries[key] = _read_member(archive, info, f"{path}: {key}")
                except _UnsafeEntry as error:
                    if needed is None or key in needed:
                        raise
                    _log.warning("%s: entry '%s', which fastgdml does not use, is left out: %s.", path, key, error.why)
        return entries
    except zipfile.BadZipFile as error:
        if is_flat(path):
            raise FileFormatError(
                f"{path} is a flat model file, which holds what prediction needs and no more. Give the npz file that "
                "it was exported from."
            ) from None
        raise _unreadable(path, error) from None
    except FileFormatError:
        raise
    except (zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError, OverflowError) as error:
        raise _unreadable(path, error) from None
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}.") from None


class _UnsafeEntry(FileFormatError):
    """An entry is a pickled object that is not plain data."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(
            f"{where} holds a pickled object that is not plain data ({why}). Such an object can run code when it "
            "is opened; fastgdml refuses it. Remove the entry, or ask for the file without pickles."
        )
        self.why = why


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the arrays of an archive by key."""
    return {i.filename.removesuffix(".npy"): i for i in archive.infolist() if i.filename.endswith(".npy")}


def _unreadable(path: Path, error: Exception) -> FileFormatError:
    return FileFormatError(f"{path} is no readable npz archive ({error}). It may be truncated or of another kind.")


def is_flat(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a flat model file (`fastgdml.flat`), by its first bytes; False if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_FLAT)) == _FLAT
    except OSError:
        return False


def type_of(entries: Mapping[str, Any], default: str = "") -> str:
    """Return the type that entries of a file record: 'd' (dataset), 't' (task), 'm' (model), or else `default`."""
    return text(entries.get("type", default))


def text(value: Any) -> str:
    """Return a text entry of a file as str, whether it was stored as text or as bytes.

    An array of equal texts, as of one name for each geometry, is that text.
    """
    if isinstance(value, np.ndarray):
        texts = {text(item) for item in value.ravel().tolist()}
        return texts.pop() if len(texts) == 1 else str(value) if texts else ""
    return value.decode("utf-8", "replace").rstrip("\0") if isinstance(value, bytes) else str(value)


# ---- kinds of files ---------------------------------------------------------------------------------------------


def path_type(path: str | os.PathLike[str]) -> str:
    """Return what is at a path: 'file', 'directory', 'nothing', or 'special file' (a device, pipe or socket).

    Raises
    ------
    FileFormatError
        If the system does not tell: the name is empty or too long, a folder on the way cannot be entered, or so.
    """
    if not os.fspath(path):
        raise FileFormatError("A file name is empty.")
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise FileFormatError(f"{_short(path)}: {getattr(error, 'strerror', None) or error}.") from None
    if stat.S_ISREG(mode):
        return "file"
    return "directory" if stat.S_ISDIR(mode) else "special file"


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """Return what a file is: one of the kinds that fastgdml writes, or another one in words.

    Returns
    -------
    str or None
        None if there is no file, or one without content.

    Raises
    ------
    FileFormatError
        If the system does not let it be looked at.
    """
    what = path_type(path)
    if what != "file":
        return None if what == "nothing" else what
    try:
        with open(path, "rb") as file:
            start = file.read(512)
        if not start:
            return None
        if start.startswith(_FLAT):
            return FLAT_MODEL
        if not start.startswith(b"PK"):
            return _foreign(start)
        with zipfile.ZipFile(path) as archive:
            keys = _members(archive).keys()
        letter = type_of(load_npz(path, {"type"}))
    except (zipfile.BadZipFile, NotImplementedError):
        return "damaged npz archive"
    except FileFormatError:
        return ARCHIVE
    except OSError as error:
        raise FileFormatError(f"{_short(path)} cannot be read: {error.strerror or error}.") from None
    return _kind(letter, keys) if keys else "zip archive"


def _kind(letter: str, keys: Collection[str]) -> str:
    """Return the kind of an archive with these keys, whose type is `letter`, or empty."""
    if letter == "m" and "schema" not in keys:
        return SGDML_MODEL
    if letter == "" and {"z", "R", "F"} <= set(keys):
        return DATASET
    return _KINDS.get(letter, ARCHIVE)


def _foreign(start: bytes) -> str:
    """Return in words what a file is that begins with `start` and that fastgdml does not write."""
    pictures = ((b"\x89PNG", PICTURE), (b"\xff\xd8\xff", PICTURE), (b"%PDF-", PDF))
    for magic, what in (*pictures, (b"\x89HDF", "HDF5 file"), (b"- of Ulm", TRAJECTORY)):
        if start.startswith(magic):
            return what
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # not just cut within a character
            return "file of another program"
    return "file of another program" if b"\0" in start else TEXT


def require_kind(path: str | os.PathLike[str], kind: str, also: Collection[str] = ()) -> None:
    """Raise FileFormatError if there is a file at `path` of another kind than `kind`, or than those of `also`."""
    found = kind_of(path)
    if found is not None and found != kind and found not in also:
        raise FileFormatError(
            f"'{_short(path)}' is a {found}, and is never replaced by a {kind}, with any option. Give another name, or "
            "move it away."
        )


def require_target(path: str | os.PathLike[str], kind: str, also: Collection[str] = ()) -> None:
    """Find out whether a file of this kind could be written, before the work that leads to it; leave nothing.

    Raises
    ------
    FileFormatError
        If there is a file of another kind (`require_kind`), or the folder cannot be written to.
    """
    require_kind(path, kind, also)
    folder = Path(path).parent
    if path_type(folder) != "directory":
        raise FileFormatError(
            f"'{_short(path)}' cannot be written: there is no folder '{_short(folder)}'. Make it first."
        )
    require_writable(Path(path).parent)


def require_free(target: str | os.PathLike[str], kind: str, overwrite: bool, option: str = "") -> None:
    """Raise unless a file of this kind can be written to `target`, and may be. Nothing is left there.

    Parameters
    ----------
    target : path-like
        The file.
    kind : str
        What is to be written; see `kind_of`.
    overwrite : bool
        Whether a file of the same kind may be replaced.
    option : str
        The option that names another file, for the message.

    Raises
    ------
    FileFormatError
        If the file is of another kind, or cannot be written.
    UsageError
        If it is there already and is not to be overwritten.
    """
    require_target(target, kind)
    if path_type(target) == "file" and not overwrite:
        raise UsageError(
            f"'{target}' exists ({kind_of(target) or 'empty'}). Give -o to overwrite it, or another name"
            f"{f' with {option}' if option else ''}."
        )


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Raise FileFormatError unless files can be made in a folder, by making one and removing it."""
    with _temporary(Path(folder), f"The folder '{_short(folder)}'"):
        pass


def save_npz(
    path: str | os.PathLike[str], entries: Mapping[str, Any], compress: bool = False, also: Collection[str] = ()
) -> None:
    """Write an npz archive atomically: the target is either the old file or the complete new one.

    Parameters
    ----------
    path : path-like
        The file; replaced if it is of the kind that the entry ``type`` tells.
    entries : mapping
        Arrays, or what `numpy.asarray` turns into arrays of numbers or text.
    compress : bool
        Compress the entries. Coefficients hardly shrink, and compression takes longer than small trainings.
    also : collection of str
        Further kinds that may be replaced.

    Raises
    ------
    FileFormatError
        If an entry is not made of numbers or text, there is a file of another kind, or the file cannot be written.
    """
    path = Path(path)
    arrays = {key: np.asanyarray(value) for key, value in entries.items()}
    for key, array in arrays.items():
        if array.dtype.hasobject:
            raise FileFormatError(f"{path}: entry '{key}' holds Python objects, which are never written.")
    kind = _kind(type_of(entries), entries)
    with replacing(path, kind, also) as file:
        (np.savez_compressed if compress else np.savez)(file, **arrays)


@contextmanager
def replacing(path: str | os.PathLike[str], kind: str, also: Collection[str] = ()) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` once it is complete; an exception leaves the old file.

    Every file is written through here.

    Parameters
    ----------
    path : path-like
        The file.
    kind : str
        The kind of file that is written.
    also : collection of str
        Further kinds that may be replaced.

    Raises
    ------
    FileFormatError
        If there is a file of another kind, or the file cannot be written.
    """
    require_kind(path, kind, also)
    path = Path(path)
    with _temporary(path.parent, f"'{_short(path)}'") as (file, temporary):
        yield file
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.replace(temporary, path)
    _sync_folder(path.parent)


@contextmanager
def _temporary(folder: Path, target: str) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a temporary file in a folder, and remove it if it is still there in the end; errors name `target`."""
    temporary = folder / f".fastgdml.{secrets.token_hex(8)}.tmp"
    try:
        file = open(temporary, "x+b")  # noqa: SIM115 (closed below, before it is removed)
        try:
            with file:
                yield file, temporary
        finally:
            temporary.unlink(missing_ok=True)
    except FileFormatError:
        raise
    except OSError as error:
        raise FileFormatError(f"{target} could not be written: {error.strerror or error}.") from error


def _short(path: str | os.PathLike[str]) -> str:
    """Return a path for a message, abridged where no file name is that long."""
    name = os.fsdecode(path)
    return name if len(name) <= 400 else f"{name[:100]}...{name[-20:]} ({len(name)} characters)"


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
            shape, _, dtype = read_header(file, max_header_size=_MAX_HEADER)
        except (ValueError, TypeError, SyntaxError) as error:
            raise FileFormatError(f"{where} is no array ({error}). The file is damaged.") from None
        if dtype.hasobject:
            return _plain(_unpickle(file.read(), where))
    n_bytes = dtype.itemsize * int(np.prod(shape, dtype=object))
    if n_bytes > info.file_size:
        raise FileFormatError(f"{where} claims {n_bytes} bytes but holds {info.file_size}. The file is damaged.")
    with archive.open(info) as file:
        try:
            array = np.lib.format.read_array(file, allow_pickle=False, max_header_size=_MAX_HEADER)
        except (ValueError, TypeError, SyntaxError):
            array = None
        if array is None or file.read(1):
            raise FileFormatError(f"{where} holds another number of bytes than its header says. The file is damaged.")
    return array


# ---- pickled entries of other programs --------------------------------------------------------------------------
#
# A pickle builds objects by calling functions and by handing them a state. NumPy's own classes trust the state they are
# given: a forged dtype makes NumPy take bytes for pointers. So the names that pickles of arrays refer to lead to the
# stand-ins below, which only note what they are told; checked arrays are made from the notes afterwards.


class _PickledDtype:
    """Stands for numpy.dtype: a plain number, text or object type and its byte order."""

    _order: Literal["<", ">", "=", "|"]

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
        return np.dtype(self._code).newbyteorder(self._order)


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
        array = _make_array(dtype, data, shape, "F" if fortran else "C")
        return array.astype(array.dtype.newbyteorder("="), copy=False)  # as NumPy's unpickling does


def _make_array(dtype: Any, data: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
    if not isinstance(dtype, _PickledDtype) or order not in ("C", "F"):
        raise pickle.UnpicklingError("unusual array")
    kind = dtype.make()
    if kind.hasobject:
        # Objects are listed in C order, in whichever order the array lies in memory.
        array = np.empty(len(data), dtype=object)
        for i, item in enumerate(list(data)):
            array[i] = _make_plain(item)
        return array.reshape(shape)
    if kind.itemsize == 0:  # empty texts
        return np.zeros(shape, dtype=kind)
    return np.frombuffer(bytearray(_to_bytes(data)), dtype=kind).reshape(shape, order="F" if order == "F" else "C")


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


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: str, axes: Any = None) -> np.ndarray:
    if order == "K" and axes is not None:  # neither C nor Fortran order: the axes of an array in C order, exchanged
        return _make_array(dtype, buffer, shape, "C").transpose(axes)
    return _make_array(dtype, buffer, shape, order)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("unusual text encoding")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stand for bytes(), as old protocols write bytes of length zero."""
    return b""


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
    ("__builtin__", "bytes"): _no_bytes,
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
        raise _UnsafeEntry(where, str(error) or type(error).__name__) from None


def _plain(value: Any) -> Any:
    """Unwrap an object array of one element, as NumPy stores dictionaries and None."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.shape == ():
        return value.item()
    return value
