"""Datasets: geometries with reference energies and forces.

A dataset is a dict with the keys of sgdml's files, which `Dataset` lists; an npz file of a dataset holds the same.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import numpy as np
import numpy.typing as npt

from .catalog import fingerprint_bytes, recorded_fingerprints, resolve_dataset
from .cell import Cell
from .descriptor import from_R
from .entries import DATASET, check_entries
from .errors import DataError, FileFormatError
from .npz import load_npz, save_npz, text, type_of
from .perms import check_perms
from .types import Integers, Number, Text
from .units import SAME, Conversion, Units, conversion

_log = logging.getLogger(__name__)

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
    md5_aliases: npt.NDArray[np.bytes_]  # further ones: that which its file recorded, that of its numbers as stored
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

# Entries that are used; others are kept as they are.
_USED = ("type", "z", "R", "F", "E", "lattice", "perms", "r_unit", "e_unit", "name", "theory", "md5", "md5_aliases")
_OPTIONAL = ("E", "lattice", "perms", "r_unit", "e_unit", "name", "theory", "md5", "md5_aliases", "provenance")

# What other projects call the entries, in lower case. Gradients are negative forces.
_OTHER_NAMES = {
    "z": ("nuclear_charges", "atomic_numbers", "numbers", "charges", "species", "elements", "atom_types", "z"),
    "R": ("coords", "coordinates", "positions", "geometry", "geometries", "pos", "xyz", "coord", "r"),
    "F": ("forces", "force", "f", "gradients", "gradient", "grad"),
    "E": ("energies", "energy", "total_energy", "e"),
}
_CELL_NAMES = {"cell", "cells", "lattice", "lattices", "lattice_vectors", "unit_cell", "box", "pbc"}

# Shortest distances in a molecule, in any unit in which a length scale of the kernel can be chosen.
_SHORTEST, _LONGEST = 1e-3, 1e5
# One Angstrom in units beyond these bounds.
_NOT_OF_ATOMS = {"metres": 1e-10, "millimetres": 1e-7, "centimetres": 1e-8, "micrometres": 1e-4, "femtometres": 1e5}


def dataset_md5(dataset: Mapping[str, Any]) -> bytes:
    """Return sgdml's fingerprint of a dataset: the md5 of the md5 digests of z, R, E (if present) and F."""
    outer = hashlib.md5(usedforsecurity=False)
    for key in ("z", "R", "E", "F"):
        if key in dataset:
            array = np.ascontiguousarray(np.asarray(dataset[key]).ravel())
            outer.update(hashlib.md5(array.data, usedforsecurity=False).digest())
    return outer.hexdigest().encode("ascii")


def create_dataset(  # noqa: PLR0913 (the entries of a dataset)
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
    dataset.setdefault("name", np.array("unknown"))
    dataset.setdefault("theory", np.array("unknown"))
    for key in ("E", "F"):
        if key in dataset:
            values = dataset[key]
            for statistic in ("min", "max", "mean", "var"):
                dataset[f"{key}_{statistic}"] = getattr(np, statistic)(values)
    dataset["md5"] = np.array(dataset_md5(dataset))
    return cast(Dataset, dataset)


def save_dataset(path: str | os.PathLike[str], dataset: Mapping[str, Any]) -> None:
    """Write a dataset to an npz file, atomically and without pickles. Only a dataset is replaced."""
    entries = {"type": np.array("d"), **dataset}
    if not np.size(entries.get("md5_aliases", 0)):
        del entries["md5_aliases"]
    save_npz(path, entries, compress=True)


def load_dataset(source: str | os.PathLike[str]) -> Dataset:
    """Load and check a dataset.

    Parameters
    ----------
    source : path-like
        An npz file (``.npz`` may be left out); or the name of an example shipped with fastgdml; or the fingerprint of a
        dataset in the current folder, or ``folder/fingerprint``. A file comes before an example of the same name.

    Returns
    -------
    dict
        The dataset. A file that holds only R, F, z (and E) is accepted: its name is then taken from the file. Numbers
        may be of any type, atomic numbers floats, energies of shape (M, 1) or (M, 1, 1).

    Raises
    ------
    FileFormatError
        If there is no such file or it is no dataset.
    DataError
        If its contents cannot be used.
    """
    path = resolve_dataset(source)
    dataset = load_npz(path, needed=_USED)
    kind = type_of(dataset, "d")
    if kind != "d":
        what = {"t": "a task", "m": "a model"}.get(kind, f"no dataset (it is of type {kind!r})")
        raise FileFormatError(f"{path} is {what}; a dataset is needed.")
    require_keys(dataset, str(path))
    stored = {key: np.asarray(dataset[key]) for key in ("z", "R", "E", "F") if dataset.get(key) is not None}
    dataset["type"] = np.array("d")
    check_dataset(dataset, str(path))
    dataset.setdefault("name", np.array(path.stem))
    dataset.setdefault("theory", np.array("unknown"))
    for key in ("name", "theory", "r_unit", "e_unit"):
        if key in dataset:
            dataset[key] = np.array(text(dataset[key]))
    md5 = dataset_md5(dataset)
    aliases = {*recorded_fingerprints(dataset)}
    changed = any(array is not dataset.get(key) for key, array in stored.items())
    if changed and not any(array.dtype.hasobject for array in stored.values()):
        aliases.add(dataset_md5(stored))
    dataset["md5"], dataset["md5_aliases"] = np.array(md5), np.array(sorted(aliases - {md5}), dtype="S")
    _warn_of_other_cells(dataset, str(path))
    return cast(Dataset, dataset)


def require_keys(dataset: Mapping[str, Any], source: str) -> None:
    """Raise FileFormatError unless z, R and F are there; say what is, and how to rename it."""
    missing = [key for key in ("z", "R", "F") if dataset.get(key) is None]
    if not missing:
        return
    there = sorted(str(key) for key in dataset)
    message = f"{source} is no dataset ({', '.join(missing)} missing). It has the keys {', '.join(there) or '(none)'}."
    renamed = {}
    for key, names in _OTHER_NAMES.items():
        found = [name for name in there if name.lower() in names]
        if key in there or found:
            renamed[key] = key if key in there else min(found, key=lambda name: names.index(name.lower()))
    if any(name != key for key, name in renamed.items()):
        parts = [f"{key}={'-' if name.lower().startswith('grad') else ''}d['{name}']" for key, name in renamed.items()]
        absent = [key for key in ("z", "R", "F") if key not in renamed]
        file = source if "." in source else "FILE"
        message += (
            f" Convert it with 'fastgdml dataset convert {file} -o NEW.npz', or in Python: d = numpy.load({file!r}); "
            f"numpy.savez('NEW.npz', {', '.join(parts)})."
        )
        if absent:
            message += f" Nothing in it looks like {', '.join(absent)}, which must be added."
    else:
        message += " Needed are z (atomic numbers), R (positions), F (forces), and E (energies) if there are any."
    raise FileFormatError(message)


def _warn_of_other_cells(dataset: Mapping[str, Any], source: str) -> None:
    """Warn of a cell under a key that is not read."""
    others = {str(key): value for key, value in dataset.items() if str(key).lower() in _CELL_NAMES and key != "lattice"}
    periodic = [value for key, value in others.items() if key.lower() == "pbc"]
    if "lattice" in dataset or (periodic and not np.any(periodic[0])):
        return
    used = [key for key, value in others.items() if value is not None and np.any(np.asarray(value) != 0)]
    if used:
        _log.warning(
            "%s: the key%s %s %s not read, and there is no 'lattice': the geometries are used as molecules without "
            "periodic boundaries. Store the cell as 'lattice', with lattice vectors as columns (of ASE: atoms.cell.T).",
            source,
            "s" if len(used) > 1 else "",
            ", ".join(sorted(used)),
            "are" if len(used) > 1 else "is",
        )


def check_dataset(dataset: dict[str, Any], source: str) -> None:
    """Check a dataset, and give its entries their types and shapes.

    Optional entries that are None are removed, numbers of other types become floats, atomic numbers integers, E gets
    the shape (M,).

    Raises
    ------
    FileFormatError
        If z, R or F is missing.
    DataError
        Names `source`, what is wrong and where.
    """
    for key in _OPTIONAL:
        if key in dataset and _is_absent(dataset[key]):
            del dataset[key]
    require_keys(dataset, source)
    R, F = (_numbers(dataset, key, source) for key in ("R", "F"))
    if R.ndim != 3 or R.shape[2] != 3:
        raise DataError(f"{source}: R must have shape (n_geometries, n_atoms, 3); found {R.shape}.")
    n_geo, n_atoms = R.shape[:2]
    if n_geo == 0 or n_atoms < 2:
        raise DataError(f"{source}: at least one geometry of two atoms is needed; R has shape {R.shape}.")
    if F.shape != R.shape:
        raise DataError(f"{source}: F has shape {F.shape} but R has {R.shape}; they must be equal.")
    dataset["R"], dataset["F"], dataset["z"] = R, F, _atomic_numbers(dataset["z"], n_atoms, source)
    for key, array in (("R", R), ("F", F)):
        _check_finite(source, key, array)
    if "E" in dataset:
        E = _numbers(dataset, "E", source)
        if E.size != n_geo:
            raise DataError(f"{source}: E has shape {E.shape}; one energy for each of {n_geo} geometries is needed.")
        _check_finite(source, "E", E.reshape(n_geo))
        dataset["E"] = E if E.shape == (n_geo,) else E.reshape(n_geo)
    for key in ("name", "theory", "r_unit", "e_unit"):
        _check_text(dataset, key, source)
    cell = None
    if "lattice" in dataset:
        lattice = _numbers(dataset, "lattice", source)
        dataset["lattice"] = lattice[0] if lattice.shape == (1, 3, 3) and n_geo > 1 else lattice
        try:
            cell = Cell(dataset["lattice"])
            cell.require_for(n_geo)
        except DataError as error:
            raise DataError(f"{source}: {error}") from None
    check_entries(dataset, DATASET, source)
    if "perms" in dataset:
        dataset["perms"] = check_perms(dataset["perms"])
    _check_distances(R, cell, source)


def _is_absent(value: Any) -> bool:
    """Return whether an entry says that there is none: None, or a text to that effect."""
    if value is None:
        return True
    array = np.asarray(value)
    if array.shape != () or array.dtype.kind not in "OUS":
        return False
    return array.item() is None or text(array).strip().lower() in ("", "none", "null")


def _numbers(dataset: Mapping[str, Any], key: str, source: str) -> npt.NDArray[Any]:
    """Return an entry as an array of floating-point numbers."""
    try:
        array = np.asarray(dataset[key])
        if array.dtype == object:  # numbers, or arrays of equal shapes
            array = np.array(array.tolist(), dtype=np.float64)
    except (ValueError, TypeError):
        raise DataError(f"{source}: {key} must hold floating-point numbers; found objects or ragged lists.") from None
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    if array.dtype.kind != "f":
        raise DataError(f"{source}: {key} must hold floating-point numbers; found {array.dtype}.")
    return array


def _atomic_numbers(value: Any, n_atoms: int, source: str) -> npt.NDArray[np.integer]:
    z = np.asarray(value)
    if z.ndim == 2 and z.shape[1] == n_atoms and len(z) and (z == z[0]).all():  # the same for each geometry
        z = z[0]
    if z.shape == (n_atoms, 1):
        z = z[:, 0]
    if z.shape != (n_atoms,):
        raise DataError(f"{source}: z has shape {z.shape} but R has {n_atoms} atoms.")
    try:
        numbers = z.astype(np.float64 if z.dtype.kind in "iufO" else np.str_).astype(np.float64)
        correct = z.dtype.kind in "iufOU" and bool(
            ((numbers == np.round(numbers)) & (numbers >= 1) & (numbers <= 118)).all()
        )
    except (ValueError, TypeError, OverflowError):
        correct = False
    if not correct:
        raise DataError(f"{source}: z must hold atomic numbers (integers from 1 to 118); found {_short(z)}.")
    return z if z.dtype.kind in "iu" else numbers.astype(np.int64)


def _check_text(dataset: dict[str, Any], key: str, source: str) -> None:
    """Make an entry one text. Names that differ between geometries are left out."""
    if key not in dataset:
        return
    texts = {text(item) for item in np.asarray(dataset[key]).ravel().tolist()}
    if len(texts) == 1:
        dataset[key] = np.array(texts.pop())
    elif key in ("r_unit", "e_unit"):
        raise DataError(f"{source}: {key} must be one text; found {len(texts)} different ones.")
    else:
        _log.warning("%s: '%s' holds %d different texts, one is expected: it is left out.", source, key, len(texts))
        del dataset[key]


def _check_distances(R: npt.NDArray[Any], cell: Cell | None, source: str) -> None:
    """Raise DataError if atoms coincide, or distances are not those of atoms in any usual unit."""
    shortest = np.empty(len(R))
    for first in range(0, len(R), _CHECK_CHUNK):
        part = slice(first, first + _CHECK_CHUNK)
        try:
            shortest[part] = 1 / from_R(R[part], cell and cell.part(part))[0].max(axis=1)
        except DataError:
            for i, r in enumerate(R[part], start=first):
                try:
                    from_R(r[None], cell and cell.part(slice(i, i + 1)))
                except DataError as error:
                    raise DataError(f"{source}: " + str(error).replace("geometry 0", f"geometry {i}")) from None
            raise
    typical = float(np.median(shortest))
    if not _SHORTEST < typical < _LONGEST:
        seems = [
            f" R seems to be in {name}; for Angstrom multiply R with {1 / factor:g}, and divide F."
            for name, factor in _NOT_OF_ATOMS.items()
            if 0.3 < typical / factor < 6
        ]
        raise DataError(
            f"{source}: the shortest distance between atoms is {typical:.3g}, typically; about 1 is expected in "
            f"Angstrom, 2 in Bohr, 0.1 in nm.{''.join(seems)} Convert R (and lattice, F) to one of these units."
        )


def _check_finite(source: str, key: str, array: npt.NDArray[Any]) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        where = np.argwhere(~finite)[0]
        place = f"geometry {where[0]}" + (f", atom {where[1]}" if array.ndim == 3 else "")
        raise DataError(
            f"{source}: {key} has {np.count_nonzero(~finite)} values that are not finite (first: {place}). "
            "Remove those geometries."
        )


# ---- points of a dataset ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Points:
    """Some of the geometries of a dataset, n of them, in units of choice.

    Attributes
    ----------
    R, F : ndarray, shape (n, N, 3)
        Positions and forces.
    E : ndarray, shape (n,), or None
        Energies.
    lattice : ndarray, shape (3, 3) or (n, 3, 3), or None
        Lattice vectors as columns.
    """

    R: npt.NDArray[np.float64]
    F: npt.NDArray[np.float64]
    E: npt.NDArray[np.float64] | None
    lattice: npt.NDArray[np.float64] | None


def take_points(dataset: Mapping[str, Any], idxs: npt.NDArray[np.integer], factors: Conversion = SAME) -> Points:
    """Return points of a dataset, converted by `factors`."""
    E, lattice = dataset.get("E"), lattice_of(dataset, idxs)
    return Points(
        _scaled(dataset["R"][idxs], factors.length),
        _scaled(dataset["F"][idxs], factors.force),
        None if E is None else _scaled(np.asarray(E).ravel()[idxs], factors.energy),
        None if lattice is None else _scaled(lattice, factors.length),
    )


def part_of(dataset: Mapping[str, Any], idxs: npt.NDArray[np.integer]) -> Dataset:
    """Return points of a dataset as a dataset: atoms, positions, labels, lattice and units."""
    part = {"z": dataset["z"], "R": dataset["R"][idxs], "F": dataset["F"][idxs]}
    if dataset.get("E") is not None:
        part["E"] = np.ravel(dataset["E"])[idxs]
    lattice = lattice_of(dataset, idxs)
    if lattice is not None:
        part["lattice"] = lattice
    return cast(Dataset, part | {key: dataset[key] for key in ("r_unit", "e_unit") if key in dataset})


def _scaled(array: npt.ArrayLike, factor: float) -> npt.NDArray[np.float64]:
    values = np.asarray(array, dtype=np.float64)
    return values if factor == 1 else values * factor


def lattice_of(dataset: Mapping[str, Any], idxs: npt.NDArray[np.integer]) -> npt.NDArray[np.float64] | None:
    """Return the lattice vectors of points of a dataset, (3, 3) or (n, 3, 3), or None for molecules."""
    if dataset.get("lattice") is None:
        return None
    lattice = np.asarray(dataset["lattice"], dtype=np.float64)
    return lattice[idxs] if lattice.ndim == 3 else lattice


def check_same_system(one: Mapping[str, Any], other: Mapping[str, Any], one_name: str, other_name: str) -> None:
    """Raise DataError unless two datasets, tasks or models are of the same system.

    They must have the same atoms in the same order, both or none a lattice, and units that are equal or can be
    converted: predictions are compared with labels in the units of the model.
    """
    if not np.array_equal(one["z"], other["z"]):
        raise DataError(
            f"Atoms or their order differ: the {one_name} has z = {_short(one['z'])}, the {other_name} has "
            f"z = {_short(other['z'])}."
        )
    for a, b, name_a, name_b in ((one, other, one_name, other_name), (other, one, other_name, one_name)):
        if a.get("lattice") is not None and b.get("lattice") is None:
            raise DataError(f"The {name_a} has lattice vectors, the {name_b} has none.")
    units, other_units = Units.of(one), Units.of(other)
    origin = one.get("md5_train", one.get("md5"))
    if (
        conversion(units, other_units, one_name, other_name)
        and origin is not None
        and same_fingerprint(origin, other.get("md5", b""))
    ):
        raise DataError(
            f"The {one_name} and the {other_name} have the same numbers (fingerprint {text(origin)}) but record "
            f"different units: {units}, {other_units}. Correct the entries e_unit and r_unit of the one that is wrong."
        )


def _short(z: npt.ArrayLike) -> str:
    return np.array2string(np.asarray(z), threshold=12, max_line_width=200)


# ---- fingerprints -----------------------------------------------------------------------------------------------


def has_fingerprint(dataset: Mapping[str, Any], md5: Any) -> bool:
    """Return whether a dataset is known by a fingerprint: that of its arrays, or one that it records."""
    wanted = fingerprint_bytes(md5)
    if not wanted:
        return False
    # what `load_dataset` has not seen may hold a fingerprint that is not that of its arrays
    return wanted in recorded_fingerprints(dataset) or ("md5_aliases" not in dataset and wanted == dataset_md5(dataset))


def same_fingerprint(one: Any, other: Any) -> bool:
    """Return whether two md5 entries, of bytes or text, are equal."""
    return fingerprint_bytes(one) == fingerprint_bytes(other)
