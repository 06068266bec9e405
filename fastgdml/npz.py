"""Reading and writing npz archives, without ever executing what is in them.

Archives are written without pickles, to a temporary file that replaces the target once it is complete. A file is only
replaced by one of its kind (`kind_of`). Archives of other programs may hold pickled objects (sgdml stores its error
dictionaries so); those are decoded by an unpickler that knows NumPy arrays and plain data and refuses everything else.
"""

from __future__ import annotations

import logging
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from . import memory
from .archive import NewArchive, open_archive
from .errors import FileFormatError, InsufficientMemoryError, UsageError
from .files import path_type, require_writable, short, written_whole
from .plain_pickles import UnsafePickleError, are_characters, load_plain

_log = logging.getLogger(__name__)

_MAX_HEADER = 10_000
# Up to so many bytes entries are read without asking, whether anybody needs them and whether there is memory.
_SMALL = 2**24
_BLOCK = 2**20
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
        archive, members = open_archive(path)
        with archive:
            if keys is not None:
                members = {key: info for key, info in members.items() if key in keys}
            chosen = _chosen(members, needed, path)
            require_memory(sum(members[key].file_size for key in chosen), path)
            for key in chosen:
                try:
                    entries[key] = _read_member(archive, members[key], f"{path}: {key}")
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
    except (zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError) as error:
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


def _unreadable(path: Path, error: Exception) -> FileFormatError:
    return FileFormatError(f"{path} is no readable npz archive ({error}). It may be truncated or of another kind.")


def is_flat(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a flat model file (`fastgdml.flat`), by its first bytes; False if it cannot be read."""
    try:
        if path_type(path) != "file":  # of a pipe the first bytes would be lost to others, or waited for
            return False
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
        archive, members = open_archive(Path(path))
        archive.close()
        keys = members.keys()
        letter = type_of(load_npz(path, {"type"}))
    except (zipfile.BadZipFile, NotImplementedError):
        return "damaged npz archive"
    except FileFormatError:
        return ARCHIVE
    except OSError as error:
        raise FileFormatError(f"{short(path)} cannot be read: {error.strerror or error}.") from None
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
            f"'{short(path)}' is a {found}, and is never replaced by a {kind}, with any option. Give another name, or "
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
            f"'{short(path)}' cannot be written: there is no folder '{short(folder)}'. Make it first."
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


def require_unused(target: str | os.PathLike[str], kind: str, overwrite: bool) -> None:
    """As `require_free`, for commands whose option is --overwrite."""
    require_target(target, kind)
    if path_type(target) == "file" and not overwrite:
        raise UsageError(f"'{target}' exists. Give --overwrite to replace it, or another name.")


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
    with replacing(path, kind, also) as file, NewArchive(file, compress) as archive:
        for key, array in arrays.items():
            archive.add(key, array)


@contextmanager
def replacing(path: str | os.PathLike[str], kind: str, also: Collection[str] = ()) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once it is complete; see `fastgdml.files.written_whole`.

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
    with written_whole(Path(path)) as file:
        yield file


# ---- members of an archive --------------------------------------------------------------------------------------


def require_memory(n_bytes: int, path: str | os.PathLike[str]) -> None:
    """Raise InsufficientMemoryError unless so many bytes of a file fit into the memory."""
    if n_bytes > _SMALL and n_bytes > memory.available():
        raise InsufficientMemoryError(
            f"{path}: its entries take {n_bytes / 2**30:.3g} GB of memory, {memory.available() / 2**30:.3g} GB are "
            "available."
        )


def _chosen(members: Mapping[str, zipfile.ZipInfo], needed: Collection[str] | None, path: Path) -> list[str]:
    """Return the keys of the members to read: not those that nobody needs and that take more than all the others."""
    if needed is None:
        return list(members)
    bound = max(_SMALL, sum(info.file_size for key, info in members.items() if key in needed))
    chosen = [key for key, info in members.items() if key in needed or info.file_size <= bound]
    for key in members.keys() - set(chosen):
        _log.warning(
            "%s: entry '%s', which fastgdml does not use, is left out: it takes %.3g GB.",
            path,
            key,
            members[key].file_size / 2**30,
        )
    return chosen


def read_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether in Fortran's order, and type of an array from the beginning of its file.

    Raises
    ------
    FileFormatError
        If it is none.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file, max_header_size=_MAX_HEADER)
    except (zipfile.BadZipFile, zlib.error, OSError):
        raise
    except Exception as error:  # Python's parser, which NumPy asks, may raise anything
        raise FileFormatError(f"{where} is no array ({error}). The file is damaged.") from None
    if version == (3, 0) and dtype.names is not None:  # these are UTF-8, what was called takes them for Latin-1
        dtype.names = tuple(name.encode("latin1").decode("utf-8") for name in dtype.names)
    if not all(type(n) is int and 0 <= n < 2**62 for n in shape):
        raise FileFormatError(f"{where} claims the shape {shape}. The file is damaged.")
    return shape, fortran, dtype


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> Any:
    with archive.open(info) as file:
        shape, fortran, dtype = read_header(file, where)
        if dtype.hasobject:
            try:
                return _unwrapped(load_plain(file.read()))
            except UnsafePickleError as error:
                raise _UnsafeEntry(where, str(error)) from None
        size = math.prod(shape)
        n_bytes = dtype.itemsize * size
        if n_bytes > info.file_size:
            raise FileFormatError(f"{where} claims {n_bytes} bytes but holds {info.file_size}. The file is damaged.")
        content = np.empty(n_bytes, dtype=np.uint8)
        if _read_into(file, content.data) != n_bytes or file.read(1):  # also checks the checksum
            raise FileFormatError(f"{where} holds another number of bytes than its header says. The file is damaged.")
    if dtype.itemsize == 0:  # empty texts
        if size > _SMALL:
            raise FileFormatError(f"{where} claims {size} empty texts. The file is damaged.")
        return np.zeros(shape, dtype=dtype)
    array = content.view(dtype).reshape(shape, order="F" if fortran else "C")
    if dtype.kind == "U" and not are_characters(array):
        raise FileFormatError(f"{where} holds numbers that are no characters. The file is damaged.")
    return array


def _read_into(file: IO[bytes], content: memoryview) -> int:
    """Fill the memory from a file, and return how much there was."""
    done = 0
    while done < len(content):
        part = file.read(min(_BLOCK, len(content) - done))
        if not part:
            break
        content[done : done + len(part)] = part
        done += len(part)
    return done


def _unwrapped(value: Any) -> Any:
    """Unwrap an object array of one element, as NumPy stores dictionaries and None."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.shape == ():
        return value.item()
    return value
