"""Datasets: geometries with reference energies and forces.

A dataset is a dict with the keys of sgdml's files, which `Dataset` lists; an npz file of a dataset holds the same.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import numpy.typing as npt

from .cell import Cell
from .descriptor import from_R
from .errors import DataError, FileFormatError
from .group import check_perms
from .npz import load_npz, save_npz

_log = logging.getLogger(__name__)

# As made, scalars of Python or NumPy; as read from a file, arrays of shape ().
Text = str | bytes | npt.NDArray[np.str_] | npt.NDArray[np.bytes_]
Number = float | np.number | npt.NDArray[np.number | np.bool_]
Integers = npt.NDArray[np.integer]
Floats = npt.NDArray[Any]  # of any precision


class _DatasetLabels(TypedDict):
    """What every dataset has. M geometries of N atoms."""

    z: Integers  # (N,) atomic numbers
    R: Floats  # (M, N, 3) positions
    F: Floats  # (M, N, 3) forces, the negative gradient of the energy


class Dataset(_DatasetLabels, total=False):
    """Keys of a dataset; docs/reference/files.md lists them with what may be left out. Others are kept as they are."""

    E: Floats  # (M,) energies
    lattice: Floats  # (3, 3) or (M, 3, 3) lattice vectors as columns, for all geometries or for each
    perms: Integers  # (P, N) permutations of atoms that leave the energy as it is
    r_unit: Text  # unit of length
    e_unit: Text  # unit of energy
    type: Text  # "d"
    name: Text  # of the system
    theory: Text  # level of theory
    md5: Text  # fingerprint; see `dataset_md5`
    provenance: Text  # where the data come from
    E_min: Number  # smallest energy
    E_max: Number  # largest energy
    E_mean: Number  # mean energy
    E_var: Number  # variance of the energies
    F_min: Number  # smallest component of a force
    F_max: Number  # largest component
    F_mean: Number  # mean of all components
    F_var: Number  # variance of all components


_REQUIRED = tuple(_DatasetLabels.__annotations__)

# Geometries whose descriptors are computed at a time when looking for coincident atoms.
_CHECK_CHUNK = 512


def dataset_md5(dataset: Mapping[str, Any]) -> bytes:
    """Return sgdml's fingerprint of a dataset: the md5 of the md5 digests of z, R, E (if present) and F."""
    outer = hashlib.md5(usedforsecurity=False)
    for key in ("z", "R", "E", "F"):
        if key in dataset:
            array = np.ascontiguousarray(np.asarray(dataset[key]).ravel())
            outer.update(hashlib.md5(array.data, usedforsecurity=False).digest())
    return outer.hexdigest().encode("ascii")


def create_dataset(
    name: str,
    theory: str,
    z: npt.ArrayLike,
    R: npt.ArrayLike,
    F: npt.ArrayLike,
    E: npt.ArrayLike | None = None,
    lattice: npt.ArrayLike | None = None,
    r_unit: str | None = None,
    e_unit: str | None = None,
) -> Dataset:
    """Make a dataset from arrays.

    Parameters
    ----------
    name, theory : str
        Name of the system and level of theory; they become part of file names.
    z : array_like of int, shape (N,)
        Atomic numbers.
    R : array_like, shape (M, N, 3)
        Positions.
    F : array_like, shape (M, N, 3)
        Forces (the negative gradient of the energy).
    E : array_like, shape (M,), optional
        Energies.
    lattice : array_like, shape (3, 3) or (M, 3, 3), optional
        Lattice vectors as columns; one cell for all geometries, or one for each.
    r_unit, e_unit : str, optional
        Units of length and energy, for display.

    Returns
    -------
    dict
        A checked dataset with its fingerprint.

    Raises
    ------
    DataError
        If the arrays do not form a dataset.
    """
    dataset: dict[str, Any] = {
        "type": np.array("d"),
        "name": np.array(name),
        "theory": np.array(theory),
        "z": np.asarray(z),
        "R": np.asarray(R),
        "F": np.asarray(F),
    }
    if E is not None:
        dataset["E"] = np.asarray(E)
    if lattice is not None:
        dataset["lattice"] = np.asarray(lattice)
    if r_unit is not None:
        dataset["r_unit"] = np.array(r_unit)
    if e_unit is not None:
        dataset["e_unit"] = np.array(e_unit)
    check_dataset(dataset, f"dataset '{name}'")
    for key in ("E", "F"):
        if key in dataset:
            values = dataset[key]
            for statistic in ("min", "max", "mean", "var"):
                dataset[f"{key}_{statistic}"] = getattr(np, statistic)(values)
    dataset["md5"] = np.array(dataset_md5(dataset))
    return cast(Dataset, dataset)


def save_dataset(path: str | os.PathLike[str], dataset: Mapping[str, Any]) -> None:
    """Write a dataset to an npz file, atomically and without pickles."""
    save_npz(path, dataset, compress=True)


def load_dataset(source: str | os.PathLike[str]) -> Dataset:
    """Load and check a dataset.

    Parameters
    ----------
    source : path-like
        An npz file; or the name of an example shipped with fastgdml; or the fingerprint of a dataset in the current
        folder, or ``folder/fingerprint``.

    Returns
    -------
    dict
        The dataset. A file that holds only R, F, z (and E) is accepted: its name is then taken from the file.

    Raises
    ------
    FileFormatError
        If there is no such file or it is no dataset.
    DataError
        If its contents cannot be used.
    """
    path = resolve_dataset(source)
    dataset = load_npz(path)
    kind = str(dataset.get("type", "d"))
    missing = [key for key in _REQUIRED if key not in dataset]
    if kind != "d" or missing:
        what = {"t": "a task", "m": "a model"}.get(kind, f"no dataset ({', '.join(missing)} missing)")
        raise FileFormatError(f"{path} is {what}; a dataset is needed.")
    dataset["type"] = np.array("d")
    dataset.setdefault("name", np.array(path.stem))
    dataset.setdefault("theory", np.array("unknown"))
    for key in ("name", "theory", "r_unit", "e_unit"):
        if key in dataset:
            dataset[key] = np.array(text(dataset[key]))
    check_dataset(dataset, str(path))
    dataset["md5"] = np.array(dataset_md5(dataset))
    return cast(Dataset, dataset)


def text(value: Any) -> str:
    """Return a text entry of a file as str, whether it was stored as text or as bytes."""
    item = value.item() if isinstance(value, np.ndarray) and value.shape == () else value
    return item.decode("utf-8", "replace").rstrip("\0") if isinstance(item, bytes) else str(item)


def embedded_datasets() -> dict[str, Path]:
    """Return the example datasets shipped with fastgdml: paths by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "data").glob("*.npz"))}


def resolve_dataset(source: str | os.PathLike[str]) -> Path:
    """Return the file that a dataset argument means; see `load_dataset`."""
    path = Path(source)
    if path.is_file():
        return path
    if re.fullmatch(r"[0-9a-f]{32}", path.name):
        return _find_by_fingerprint(path.parent, path.name)
    embedded = embedded_datasets()
    if str(source) in embedded:
        return embedded[str(source)]
    with_suffix = path.with_name(path.name + ".npz")
    if with_suffix.is_file():
        return with_suffix
    raise FileFormatError(
        f"{source}: no such dataset file, and no shipped example of that name (there are: {', '.join(embedded)})."
    )


def _find_by_fingerprint(folder: Path, fingerprint: str) -> Path:
    if not folder.is_dir():
        raise FileFormatError(f"{folder}: no such folder to look for a dataset with fingerprint {fingerprint}.")
    found = []
    for path in sorted(folder.glob("*.npz")):
        try:
            entries = load_npz(path, {"type", "md5"})
        except FileFormatError as error:
            _log.warning("Skipped while looking for fingerprint %s: %s", fingerprint, error)
            continue
        if str(entries.get("type")) == "d" and "md5" in entries and text(entries["md5"]) == fingerprint:
            found.append(path)
    if len(found) != 1:
        what = "No dataset" if not found else f"{len(found)} datasets ({', '.join(p.name for p in found)})"
        raise FileFormatError(f"{what} with fingerprint {fingerprint} in {folder}. Give the file name.")
    return found[0]


def check_dataset(dataset: dict[str, Any], source: str) -> None:
    """Check the arrays of a dataset, and give E the shape (M,).

    Raises
    ------
    DataError
        Names `source`, what is wrong and where.
    """
    R, F, z = np.asarray(dataset["R"]), np.asarray(dataset["F"]), np.asarray(dataset["z"])
    if R.ndim != 3 or R.shape[2] != 3:
        raise DataError(f"{source}: R must have shape (n_geometries, n_atoms, 3); found {R.shape}.")
    n_geo, n_atoms = R.shape[:2]
    if n_geo == 0 or n_atoms < 2:
        raise DataError(f"{source}: at least one geometry of two atoms is needed; R has shape {R.shape}.")
    if F.shape != R.shape:
        raise DataError(f"{source}: F has shape {F.shape} but R has {R.shape}; they must be equal.")
    if z.shape != (n_atoms,):
        raise DataError(f"{source}: z has shape {z.shape} but R has {n_atoms} atoms.")
    if not np.issubdtype(z.dtype, np.integer) or z.min() < 1 or z.max() > 118:
        raise DataError(f"{source}: z must hold atomic numbers (integers from 1 to 118); found {z}.")
    for key, array in (("R", R), ("F", F)):
        _check_numbers(source, key, array)
    if "E" in dataset:
        E = np.asarray(dataset["E"])
        if E.shape not in ((n_geo,), (n_geo, 1)):
            raise DataError(f"{source}: E has shape {E.shape}; one energy for each of {n_geo} geometries is needed.")
        _check_numbers(source, "E", E)
        dataset["E"] = E.reshape(n_geo)
    cell = None
    if dataset.get("lattice") is not None:
        try:
            cell = Cell(dataset["lattice"])
            cell.require_for(n_geo)
        except DataError as error:
            raise DataError(f"{source}: {error}") from None
    if "perms" in dataset:
        perms = check_perms(dataset["perms"])
        if perms.shape[1] != n_atoms:
            raise DataError(f"{source}: perms is for {perms.shape[1]} atoms; the geometries have {n_atoms}.")
    for first in range(0, n_geo, _CHECK_CHUNK):
        part = slice(first, first + _CHECK_CHUNK)
        try:
            from_R(R[part], cell and cell.part(part))
        except DataError:
            for i, r in enumerate(R[part], start=first):
                try:
                    from_R(r[None], cell and cell.part(slice(i, i + 1)))
                except DataError as error:
                    raise DataError(f"{source}: " + str(error).replace("geometry 0", f"geometry {i}")) from None


def _check_numbers(source: str, key: str, array: npt.NDArray[Any]) -> None:
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{source}: {key} must hold floating-point numbers; found {array.dtype}.")
    finite = np.isfinite(array)
    if not finite.all():
        where = np.argwhere(~finite)[0]
        place = f"geometry {where[0]}" + (f", atom {where[1]}" if array.ndim == 3 else "")
        raise DataError(
            f"{source}: {key} has {np.count_nonzero(~finite)} values that are not finite (first: {place}). "
            "Remove those geometries."
        )


def lattice_of(dataset: Mapping[str, Any], idxs: npt.NDArray[np.integer]) -> npt.NDArray[np.float64] | None:
    """Return the lattice vectors of points of a dataset, (3, 3) or (n, 3, 3), or None for molecules."""
    if dataset.get("lattice") is None:
        return None
    lattice = np.asarray(dataset["lattice"], dtype=np.float64)
    return lattice[idxs] if lattice.ndim == 3 else lattice


def check_same_system(one: Mapping[str, Any], other: Mapping[str, Any], one_name: str, other_name: str) -> None:
    """Raise DataError unless two datasets, tasks or models have the same atoms in order, and both or none a lattice."""
    if not np.array_equal(one["z"], other["z"]):
        raise DataError(
            f"Atoms or their order differ: the {one_name} has z = {_short(one['z'])}, the {other_name} has "
            f"z = {_short(other['z'])}."
        )
    for a, b, name_a, name_b in ((one, other, one_name, other_name), (other, one, other_name, one_name)):
        if "lattice" in a and "lattice" not in b:
            raise DataError(f"The {name_a} has lattice vectors, the {name_b} has none.")


def _short(z: npt.ArrayLike) -> str:
    return np.array2string(np.asarray(z), threshold=12, max_line_width=200)


def same_fingerprint(one: Any, other: Any) -> bool:
    """Return whether two md5 entries, of bytes or text, are equal."""
    return _bytes(one) == _bytes(other)


def _bytes(md5: Any) -> bytes:
    value = md5.item() if isinstance(md5, np.ndarray) else md5
    return value if isinstance(value, bytes) else str(value).encode("ascii", "replace")
