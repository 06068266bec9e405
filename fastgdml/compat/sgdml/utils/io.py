"""Stands in for sgdml.utils.io: files, names and arguments as sgdml's scripts treat them."""

import argparse
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastgdml.catalog import resolve_dataset
from fastgdml.cli.values import int_or_range
from fastgdml.compat.sgdml.utils import ui
from fastgdml.dataset import dataset_md5, same_fingerprint
from fastgdml.elements import SYMBOLS
from fastgdml.errors import DataError, FastGDMLError, FileFormatError
from fastgdml.exchange import to_sgdml
from fastgdml.npz import TEXT, load_npz, replacing, text, type_of
from fastgdml.types import Array, IntArray

__all__ = [
    "dataset_md5",
    "filter_file_type",
    "generate_xyz_str",
    "is_dir_with_file_type",
    "is_file_type",
    "is_strict_pos_int",
    "is_task_dir_resumeable",
    "is_valid_file_type",
    "lattice_vec_to_par",
    "model_file_name",
    "parse_list_or_range",
    "read_xyz",
    "task_file_name",
    "train_dir_name",
    "write_geometry",
    "z_str_to_z",
    "z_to_z_str",
]

_z_to_z_str_dict = dict(enumerate(SYMBOLS[1:], start=1))
_z_str_to_z_dict = {symbol: z for z, symbol in _z_to_z_str_dict.items()} | {"Uuq": 114, "Uuh": 116}


def z_str_to_z(z_str: Iterable[str]) -> IntArray:
    """Return the atomic numbers of chemical symbols."""
    return np.array([_z_str_to_z_dict[symbol] for symbol in z_str])


def z_to_z_str(z: Iterable[int]) -> list[str]:
    """Return the chemical symbols of atomic numbers."""
    return [_z_to_z_str_dict[int(number)] for number in z]


# ---- file names -------------------------------------------------------------------------------------------------


def train_dir_name(dataset: Mapping[str, Any], n_train: int, use_sym: bool, use_E: bool, use_E_cstr: bool) -> str:
    """Return the name of the directory for the tasks of a dataset."""
    flags = ("-sym" if use_sym else "") + ("" if use_E else "-noE") + ("-Ecstr" if use_E_cstr else "")
    return f"sgdml_cv_{text(dataset['name'])}-{_in_file_names(dataset['theory'])}-train{n_train}{flags}"


def task_file_name(task: Mapping[str, Any]) -> str:
    """Return the file name of a task."""
    return f"task-{_parameters(task)}-sig{int(task['sig']):04d}.npz"


def model_file_name(task_or_model: Mapping[str, Any], is_extended: bool = False) -> str:
    """Return the file name of a model among its tasks, or (extended) that of a final model."""
    if is_extended:
        name, theory = text(task_or_model["dataset_name"]), _in_file_names(task_or_model["dataset_theory"])
        return f"{name}-{theory}-{_parameters(task_or_model)}.npz"
    return f"model-{_parameters(task_or_model)}-sig{int(task_or_model['sig']):04d}.npz"


def _parameters(task_or_model: Mapping[str, Any]) -> str:
    return f"train{len(task_or_model['idxs_train'])}-sym{len(task_or_model['perms'])}"


def _in_file_names(theory: Any) -> str:
    return re.sub(r"[^\w\-.]", ".", text(theory)).replace("..", ".")


# ---- geometries -------------------------------------------------------------------------------------------------


def read_xyz(file_path: str | os.PathLike[str]) -> tuple[Array, IntArray]:
    """Read geometries of one molecule from an XYZ file.

    Parameters
    ----------
    file_path : path-like
        One or several blocks: number of atoms, comment, lines that begin with a symbol and three coordinates.

    Returns
    -------
    R : ndarray, shape (n_geo, 3 N)
        Coordinates.
    z : ndarray of int, shape (N,)
        Atomic numbers, from the first block.

    Raises
    ------
    DataError
        If a line cannot be read; it is named.
    FileFormatError
        If there is no such file.
    """
    try:
        lines = Path(file_path).read_text().rstrip().split("\n")
    except OSError as error:
        raise FileFormatError(f"{file_path} could not be read: {error.strerror}.") from None
    try:
        n_atoms = int(lines[0])
    except ValueError:
        raise DataError(f"{file_path}: line 1 must give the number of atoms; found {lines[0]!r}.") from None
    if n_atoms < 1 or len(lines) % (n_atoms + 2):
        raise DataError(
            f"{file_path}: {len(lines)} lines are no whole number of blocks of {n_atoms} atoms and two lines above."
        )
    R, z = [], []
    for number, line in enumerate(lines):
        block, row = divmod(number, n_atoms + 2)
        if row < 2:
            continue
        columns = line.split()
        try:
            R.append([float(column) for column in columns[1:4]])
            if block == 0:
                z.append(_z_str_to_z_dict[columns[0]])
            if len(R[-1]) != 3:
                raise ValueError
        except (ValueError, KeyError, IndexError):
            raise DataError(
                f"{file_path}: line {number + 1} must hold a chemical symbol and three coordinates; found {line!r}."
            ) from None
    return np.array(R).reshape(-1, 3 * n_atoms), np.array(z)


def write_geometry(filename: str | os.PathLike[str], r: Array, z: Sequence[int], comment_str: str = "") -> None:
    """Write one geometry (N, 3) with atomic numbers (N,) to an XYZ file.

    Raises
    ------
    FileFormatError
        If the file cannot be written.
    """
    atoms = [
        "\t".join([_z_to_z_str_dict[int(number)], *(str(x) for x in atom)])
        for number, atom in zip(z, np.squeeze(r), strict=True)
    ]
    with replacing(filename, TEXT) as file:
        file.write("\n".join([str(len(atoms)), comment_str, *atoms]).encode())


def generate_xyz_str(
    r: Array, z: Sequence[int], e: float | None = None, f: Array | None = None, lattice: Array | None = None
) -> str:
    """Return a geometry (N, 3) in extended XYZ format, with six digits a number.

    Parameters
    ----------
    r : ndarray, shape (N, 3)
        Positions.
    z : sequence of int, length N
        Atomic numbers.
    e : float, optional
        Energy.
    f : ndarray, shape (N, 3), optional
        Forces.
    lattice : ndarray, shape (3, 3), optional
        Lattice vectors as columns.
    """
    comment = []
    if lattice is not None:
        comment.append('Lattice="' + " ".join(f"{x:.12g}" for x in np.asarray(lattice).T.ravel()) + '"')
    if e is not None:
        comment.append(f"Energy={np.asarray(e).item():.12g}")
    comment.append("Properties=species:S:1:pos:R:3" + ("" if f is None else ":forces:R:3"))
    columns = ui.merge_col_str("\n".join(z_to_z_str(z)), ui.gen_mat_str(r)[0])
    if f is not None:
        columns = ui.merge_col_str(columns, ui.gen_mat_str(f)[0])
    return f"{len(r)}\n{' '.join(comment)}\n{columns}"


def lattice_vec_to_par(lat: Array) -> tuple[list[float], list[float]]:
    """Return lengths a, b, c and angles alpha, beta, gamma (degrees) of lattice vectors (columns).

    The angle at a vector of length zero is given as 90 degrees.
    """
    vectors = np.asarray(lat).T
    lengths = np.linalg.norm(vectors, axis=1)
    angles = []
    for one, other in ((2, 1), (0, 2), (1, 0)):
        product = lengths[one] * lengths[other]
        cosine = vectors[one] @ vectors[other] / product if product > 1e-16 else 0.0
        angles.append(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))))
    return [float(length) for length in lengths], angles


# ---- files, as argument types of argparse -----------------------------------------------------------------------


class _File(dict[str, Any]):
    """The entries of a file, with the few methods of `numpy.lib.npyio.NpzFile` that scripts call."""

    @property
    def files(self) -> list[str]:
        return list(self)

    def close(self) -> None:
        """Do nothing: the file has been read."""


def is_file_type(arg: str, type: str) -> tuple[str, _File]:
    """Load a file and check its type.

    Parameters
    ----------
    arg : str
        Path; of a dataset also its fingerprint or ``folder/fingerprint``.
    type : {'dataset', 'task', 'model'}
        The type it must have.

    Returns
    -------
    str
        The path.
    dict
        The entries, models with sgdml's keys. Nothing in the file is executed.

    Raises
    ------
    argparse.ArgumentTypeError
        If it cannot be read or is of another type.
    """
    try:
        path = str(resolve_dataset(arg)) if type == "dataset" else arg
        entries = load_npz(path)
        if type_of(entries) != type[0]:
            raise argparse.ArgumentTypeError(f"{arg} is not a {type} file")
        if type == "model":
            entries = to_sgdml(entries)
    except FastGDMLError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path, _File({key: np.asanyarray(value) for key, value in entries.items()})


def is_valid_file_type(arg_in: str) -> tuple[str, _File]:
    """Load a dataset, task or model file.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is none of them.
    """
    for kind in ("dataset", "task", "model"):
        try:
            return is_file_type(arg_in, kind)
        except argparse.ArgumentTypeError:
            continue
    raise argparse.ArgumentTypeError(f"{arg_in} is neither a dataset, task, nor model file")


def filter_file_type(dir: str, type: str, md5_match: str | None = None) -> list[str]:
    """Return the names of the files of a type in a directory, those with a given fingerprint if there is one.

    Raises
    ------
    argparse.ArgumentTypeError
        If the directory holds npz files that cannot be read.
    """
    names = []
    for name in sorted(os.listdir(dir)):
        if not name.endswith(".npz"):
            continue
        try:
            entries = load_npz(os.path.join(dir, name), {"type", "md5"})
        except FileFormatError as error:
            raise argparse.ArgumentTypeError(f"{dir} contains unreadable .npz files: {error}") from None
        if type_of(entries) == type[0] and md5_match in (None, text(entries.get("md5", ""))):
            names.append(name)
    return names


def is_dir_with_file_type(arg: str, type: str, or_file: bool = False) -> tuple[str, list[str]]:
    """Return a directory and the names of the files of a type in it; a single file counts as one in its directory.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is no directory (or file of that type), or files in it cannot be read.
    """
    if or_file and os.path.isfile(arg):
        is_file_type(arg, type)
        return os.path.dirname(arg), [os.path.basename(arg)]
    if not os.path.isdir(arg):
        raise argparse.ArgumentTypeError(f"{arg} is not a directory")
    return arg, filter_file_type(arg, type)


def is_task_dir_resumeable(
    train_dir: str,
    train_dataset: Mapping[str, Any],
    test_dataset: Mapping[str, Any],
    n_train: int,
    n_test: int,
    sigs: Sequence[int],
    gdml: bool,
) -> bool:
    """Return whether all tasks and models in a directory belong to the search that the arguments describe."""
    for name in sorted(os.listdir(train_dir)):
        if not name.endswith(".npz"):
            continue
        keys = {"type", "md5_train", "md5_valid", "idxs_train", "idxs_valid", "perms", "sig"}
        found = load_npz(os.path.join(train_dir, name), keys)
        if type_of(found) not in ("t", "m"):
            continue
        same = (
            same_fingerprint(found["md5_train"], train_dataset["md5"])
            and same_fingerprint(found["md5_valid"], test_dataset["md5"])
            and len(found["idxs_train"]) == n_train
            and len(found["idxs_valid"]) == n_test
            and not (gdml and len(found["perms"]) > 1)
            and found["sig"] in sigs
        )
        if not same:
            return False
    return True


# ---- other argument types ---------------------------------------------------------------------------------------


def is_strict_pos_int(arg: str) -> int:
    """Parse an integer > 0, or raise argparse.ArgumentTypeError."""
    number = int(arg)
    if number <= 0:
        raise argparse.ArgumentTypeError("must be strictly positive")
    return number


def parse_list_or_range(arg: str) -> int | list[int]:
    """Parse an integer, or a range start:[step:]stop with its stop into a list; or raise argparse.ArgumentTypeError."""
    return int_or_range(arg) if ":" in arg else int_or_range(arg)[0]
