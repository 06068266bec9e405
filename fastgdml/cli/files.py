"""Files that the command line reads and writes: tasks and models in directories, targets, arguments that name them."""

from __future__ import annotations

import os
from pathlib import Path

from ..dataset import Dataset, load_dataset
from ..errors import DataError, FileFormatError, UsageError
from ..exchange import export_sgdml
from ..model import Model, save_model
from ..npz import MODEL, SGDML_MODEL, kind_of, load_npz, path_type, require_target, require_writable, text

_KINDS = {"task": "t", "model": "m"}


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
        if text(entries.get("type", "")) == _KINDS[kind]:
            try:
                found.append((float(entries["sig"]), name, path))
            except (KeyError, TypeError, ValueError):
                raise DataError(f"{path}: the {kind} has no sigma (sig). The file is damaged.") from None
    return [path for _, _, path in sorted(found)]


def files_of(argument: str, kind: str) -> list[Path]:
    """Return the files that a '<dir_or_file>' argument names.

    Raises
    ------
    FileFormatError
        If there is no such file or directory, or no file of that kind in it.
    """
    path, what = Path(argument), path_type(argument)
    if what == "directory":
        files = list_files(path, kind)
        if not files:
            raise FileFormatError(f"{path} contains no {kind} files.")
        return files
    if what == "nothing":
        raise FileFormatError(f"{path}: no such {kind} file or directory.")
    return [path]


def load_dataset_argument(argument: str | None, default: Dataset) -> Dataset:
    """Load an optional dataset argument; without it, use `default`."""
    return default if argument is None else load_dataset(argument)


# ---- targets ----------------------------------------------------------------------------------------------------


def require_free(target: Path, kind: str, overwrite: bool, option: str = "") -> None:
    """Raise unless a file of this kind can be written to `target`, and may be. Nothing is left there.

    Parameters
    ----------
    target : Path
        The file.
    kind : str
        What is to be written; see `fastgdml.npz.kind_of`.
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


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it is in, unless it is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileFormatError(f"{folder} could not be made: {error.strerror or error}.") from None


def remove(path: Path) -> None:
    """Delete a file or an empty folder."""
    try:
        path.rmdir() if path.is_dir() else path.unlink()
    except OSError as error:
        raise FileFormatError(f"{path} could not be deleted: {error.strerror or error}.") from None


def require_update(path: Path) -> None:
    """Raise FileFormatError unless a model file can be replaced by one with other expected errors."""
    require_target(path, MODEL, (SGDML_MODEL,))


def update_model(path: Path, model: Model) -> None:
    """Replace a model file by one with other expected errors; a file of sgdml stays one that sgdml reads."""
    if kind_of(path) == SGDML_MODEL:
        export_sgdml(path, model)
    else:
        save_model(path, model)
