"""Directories of task and model files, and the arguments that name them."""

from __future__ import annotations

from pathlib import Path

from ..dataset import Dataset, load_dataset, text
from ..errors import FileFormatError
from ..npz import load_npz

_KINDS = {"task": "t", "model": "m"}


def list_files(directory: Path, kind: str) -> list[Path]:
    """Return the task or model files ('task', 'model') in a directory, in ascending order of sigma.

    Unconverged models (checkpoints, named ``_unconv_...``) are left out.
    """
    found = []
    for path in directory.glob("*.npz"):
        if path.name.startswith("_"):
            continue
        entries = load_npz(path, {"type", "sig"})
        if text(entries.get("type", "")) == _KINDS[kind]:
            found.append((float(entries["sig"]), path.name, path))
    return [path for _, _, path in sorted(found)]


def files_of(argument: str, kind: str) -> list[Path]:
    """Return the files that a '<dir_or_file>' argument names.

    Raises
    ------
    FileFormatError
        If there is no such file or directory, or no file of that kind in it.
    """
    path = Path(argument)
    if path.is_dir():
        files = list_files(path, kind)
        if not files:
            raise FileFormatError(f"{path} contains no {kind} files.")
        return files
    if not path.exists():
        raise FileFormatError(f"{path}: no such {kind} file or directory.")
    return [path]


def load_dataset_argument(argument: str | None, default: Dataset) -> Dataset:
    """Load an optional dataset argument; without it, use `default`."""
    return default if argument is None else load_dataset(argument)
