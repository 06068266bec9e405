"""The folder of a hyper-parameter search: names of its files, as sgdml forms them; what is in it; who works in it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import DataError, FileFormatError, UsageError
from .files import path_type, remove_leftovers, require_writable
from .npz import MODEL, kind_of, load_npz, text, type_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)

_KINDS = {"task": "t", "model": "m"}
_LOCK = ".fastgdml-lock"
# Record of what a search for sigma has tried; see `fastgdml.sigma_trials`.
TRIALS = ".sigma-trials.json"


# ---- names ------------------------------------------------------------------------------------------------------


def task_dir_name(dataset: Mapping[str, Any], n_train: int, use_sym: bool, use_E: bool, use_E_cstr: bool) -> str:
    """Return the name of the folder of a hyper-parameter search."""
    flags = ("-sym" if use_sym else "") + ("" if use_E else "-noE") + ("-Ecstr" if use_E_cstr else "")
    return f"sgdml_cv_{_safe(dataset['name'])}-{_safe(dataset['theory'])}-train{n_train}{flags}"


def task_file_name(task: Mapping[str, Any]) -> str:
    """Return the file name of a task in its folder."""
    return f"task-{_parameters(task)}.npz"


def model_file_name(task_or_model: Mapping[str, Any]) -> str:
    """Return the file name of the model of a task in the folder of the task."""
    return f"model-{_parameters(task_or_model)}.npz"


def checkpoint_file_name(task_or_model: Mapping[str, Any]) -> str:
    """Return the file name of the unconverged model of a task in the folder of the task."""
    return f"_unconv_{model_file_name(task_or_model)}"


def final_model_file_name(model: Mapping[str, Any]) -> str:
    """Return the file name of a selected model."""
    n_train, n_perms = len(model["idxs_train"]), len(model["perms"])
    name, theory = _safe(model["dataset_name"]), _safe(model["dataset_theory"])
    return f"{name}-{theory}-train{n_train}-sym{n_perms}.npz"


def _parameters(task_or_model: Mapping[str, Any]) -> str:
    sig = float(task_or_model["sig"])
    sig_text = f"{int(sig):04d}" if sig.is_integer() else repr(sig)  # all digits: two sigmas are never one file
    return f"train{len(task_or_model['idxs_train'])}-sym{len(task_or_model['perms'])}-sig{sig_text}"


def _safe(name: Any) -> str:
    return re.sub(r"[^\w\-_.]", ".", text(name)).replace("..", ".")


# ---- files ------------------------------------------------------------------------------------------------------


def list_files(directory: Path, kind: str) -> list[Path]:
    """Return the task or model files ('task', 'model') in a directory, in ascending order of sigma.

    Unconverged models (checkpoints, named ``_unconv_...``) and hidden files are left out.

    Raises
    ------
    FileFormatError
        If the directory or a file cannot be read.
    DataError
        If a file has no sigma.
    """
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise FileFormatError(f"{directory} cannot be read: {error.strerror or error}.") from None
    found = []
    for name in names:
        path = directory / name
        if not name.endswith(".npz") or name.startswith(("_", ".")) or path_type(path) != "file":
            continue
        entries = load_npz(path, {"type", "sig"})
        if type_of(entries) == _KINDS[kind]:
            try:
                found.append((float(entries["sig"]), name, path))
            except (KeyError, TypeError, ValueError):
                raise DataError(f"{path}: the {kind} has no sigma (sig). The file is damaged.") from None
    return [path for _, _, path in sorted(found)]


def files_of(directory_or_file: str | os.PathLike[str], kind: str) -> list[Path]:
    """Return the task or model files in a directory, in ascending order of sigma, or the one file.

    Raises
    ------
    FileFormatError
        If there is no such file or directory, or no file of that kind in it.
    """
    path, what = Path(directory_or_file), path_type(directory_or_file)
    if what == "directory":
        files = list_files(path, kind)
        if not files:
            raise FileFormatError(f"{path} contains no {kind} files.")
        return files
    if what == "nothing":
        raise FileFormatError(f"{path}: no such {kind} file or directory.")
    return [path]


def require_folder(folder: Path) -> None:
    """Raise unless files can be written to a folder, which may have to be made. Nothing is left there.

    Raises
    ------
    FileFormatError
        If it is no folder, or cannot be written to or made.
    """
    what = path_type(folder)
    nearest = folder
    while path_type(nearest) == "nothing" and nearest != nearest.parent:
        nearest = nearest.parent
    if what not in ("nothing", "directory") or path_type(nearest) != "directory":
        raise FileFormatError(f"{nearest} exists and is no directory; choose another --task_dir.")
    require_writable(nearest)


def delete(path: Path) -> None:
    """Delete a file, if it is there."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FileFormatError(f"{path} could not be deleted: {error.strerror or error}.") from None


def delete_search(directory: Path) -> None:
    """Delete the model and task files of a search: models first, the task of the smallest sigma last.

    Only files with the names that a search gives them are touched, so that the folder may be left.
    """
    delete(directory / TRIALS)
    remove_leftovers(directory)
    for path in directory.glob("_unconv_model-train*.npz"):
        if kind_of(path) == MODEL:
            delete(path)
    for kind in ("model", "task"):
        for path in reversed(list_files(directory, kind)):
            if path.name.startswith(f"{kind}-train"):
                delete(path)


def delete_folder(folder: Path) -> bool:
    """Delete a folder if it is empty and not the current one. Returns whether it is gone."""
    if folder.resolve() != Path.cwd():
        with suppress(OSError):
            folder.rmdir()
    return not folder.exists()


# ---- who works in it --------------------------------------------------------------------------------------------


@contextmanager
def locked(folder: Path, shared: bool = False, make: bool = False, option: str = "--task_dir") -> Iterator[None]:
    """Work in a folder while nobody else does; with `shared`, others may share it. With `make`, it is made if need be.

    Trainings share a folder, so that each of several processes can train some of its tasks; what writes or deletes
    tasks has it alone. The lock is the operating system's and ends with the process, whatever ends it. Where there is
    none (Windows, some network file systems) there is no protection. A folder that was made and is left empty is
    deleted again. `option` is what names another folder, for the message.

    Raises
    ------
    UsageError
        If somebody else works in it.
    FileFormatError
        If it cannot be made or written to.
    """
    made = _make(folder) if make else []
    try:
        path = folder / _LOCK
        file = _acquire(path, shared, option)
        try:
            yield
        finally:
            _release(file, path)
    finally:
        for each in made:
            delete_folder(each)


def _make(folder: Path) -> list[Path]:
    """Make a folder and those that it is in; return the new ones, the deepest first."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileFormatError(f"{folder} could not be made: {error.strerror or error}.") from None
    return made


def _acquire(path: Path, shared: bool, option: str) -> int | None:
    """Return the locked file; None if the system has no locks."""
    if fcntl is None:
        return None
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise FileFormatError(f"{path.parent} cannot be written to: {error.strerror or error}.") from None
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if _is(file, path):
                return file
            os.close(file)  # who had it has deleted it
        except BlockingIOError:
            os.close(file)
            raise UsageError(
                f"Another fastgdml is working in '{path.parent}'. Wait until it is finished, or use another folder "
                f"({option})."
            ) from None
        except OSError as error:
            os.close(file)
            delete(path)
            _log.info("'%s' cannot be locked (%s): do not start a second search in it.", path.parent, error.strerror)
            return None


def _is(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _release(file: int | None, path: Path) -> None:
    if file is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except OSError:  # others share it, and the last one deletes it
        pass
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # for processes, too, that inherited it
        os.close(file)
