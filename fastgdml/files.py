"""Files as the system has them: what is at a path, and files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import FileFormatError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX, _SUFFIX = ".fastgdml.", ".tmp"


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
        raise FileFormatError(f"{short(path)}: {getattr(error, 'strerror', None) or error}.") from None
    if stat.S_ISREG(mode):
        return "file"
    return "directory" if stat.S_ISDIR(mode) else "special file"


def short(path: str | os.PathLike[str]) -> str:
    """Return a path for a message, abridged where no file name is that long."""
    name = os.fsdecode(path)
    return name if len(name) <= 400 else f"{name[:100]}...{name[-20:]} ({len(name)} characters)"


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once it is complete; an exception, or a kill, leaves the old one.

    The new file has the mode of the old one, and its owner if that is allowed. Of a symbolic link the target is
    replaced. Until it is complete the file has no name, where the system can do that: a kill leaves nothing. Otherwise
    what a kill left is removed by the next that writes into the folder.

    Raises
    ------
    FileFormatError
        If the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    with _errors_of(f"'{short(path)}'"):
        remove_leftovers(target.parent)
        file, name = _open_temporary(target.parent)
        try:
            with ExitStack() as until_replaced:  # an open file is locked; others are taken for leftovers
                until_replaced.enter_context(file)
                yield file
                file.flush()
                _take_over(file, target)
                os.fsync(file.fileno())
                if name is None:
                    name = _link(file, target.parent, until_replaced)
                if fcntl is not None:
                    os.replace(name, target)
            if fcntl is None:  # Windows replaces by no open file
                os.replace(name, target)
        finally:
            if name is not None:
                name.unlink(missing_ok=True)
    _sync_folder(target.parent)


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Raise FileFormatError unless files can be made in a folder, by making one and removing it."""
    with _errors_of(f"The folder '{short(folder)}'"):
        remove_leftovers(Path(folder))
        file, name = _open_temporary(Path(folder))
        file.close()
        if name is not None:
            name.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a kill left in a folder; those that somebody writes now are locked, and stay."""
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(folder) as there:
        for entry in there:
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX) and entry.is_file(follow_symlinks=False):
                with suppress(OSError), open(entry.path, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)


def open_locked(path: Path) -> BinaryIO:
    """Open a file, made if need be, that no other process holds until it is closed, whatever closes it.

    Where the system has no locks, it is opened only.

    Raises
    ------
    BlockingIOError
        If another process holds it.
    OSError
        If it cannot be opened.
    """
    file = open(path, "wb")  # noqa: SIM115 (closed by the caller)
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    except OSError:  # a file system without locks
        pass
    return file


@contextmanager
def _errors_of(target: str) -> Iterator[None]:
    """Say of errors of the system that `target` could not be written."""
    try:
        yield
    except FileFormatError:
        raise
    except OSError as error:
        raise FileFormatError(f"{target} could not be written: {error.strerror or error}.") from error


def _new_name(folder: Path) -> Path:
    return folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"


def _open_temporary(folder: Path) -> tuple[BinaryIO, Path | None]:
    """Open a new file in a folder, and return its name, None if it has none."""
    if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
        # a file system that has no files without names, or other problems, which are told below
        with suppress(OSError):
            file = os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666), "w+b")
            _lock(file)  # before it has a name
            return file, None
    while True:
        name = _new_name(folder)
        file = open(name, "x+b")  # noqa: SIM115 (closed by the caller)
        _lock(file)
        if name.exists():  # not taken for a leftover before it was locked
            return file, name
        file.close()


def _lock(file: BinaryIO) -> None:
    """Lock a file until it is closed, so that nobody takes it for a leftover."""
    with suppress(OSError):  # a file system without locks
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)


def _link(file: BinaryIO, folder: Path, until_replaced: ExitStack) -> Path:
    """Give a file without a name one in its folder, or a copy of it, which then stays open."""
    name = _new_name(folder)
    descriptors = os.open("/proc/self/fd", os.O_RDONLY)
    try:  # only with a folder does Python follow the link to the open file
        os.link(str(file.fileno()), name, src_dir_fd=descriptors, follow_symlinks=True)
    except OSError:  # not every container lets it
        file.seek(0)
        copy = until_replaced.enter_context(name.open("xb"))
        _lock(copy)
        shutil.copyfileobj(file, copy)
        copy.flush()
        os.fchmod(copy.fileno(), stat.S_IMODE(os.fstat(file.fileno()).st_mode))
        os.fsync(copy.fileno())
    finally:
        os.close(descriptors)
    return name


def _take_over(file: BinaryIO, target: Path) -> None:
    """Give a file the mode and owner of what it replaces."""
    try:
        old = target.stat()
    except OSError:
        return
    with suppress(OSError, AttributeError):  # Windows has neither
        new = os.fstat(file.fileno())
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            with suppress(OSError):
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode) & 0o777)


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
