"""Which atoms of a LAMMPS simulation are a molecule, and of which elements they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..elements import MASSES, SYMBOLS, symbols_of
from ..errors import DataError, UsageError

_Ints = npt.NDArray[np.int64]


def find_molecules(lmp: Any, n_atoms: int, ids: npt.ArrayLike | None, group: str) -> _Ints:
    """Return the atom IDs of molecules, shape (n_molecules, n_atoms); see `fastgdml.drivers.lammps.attach`.

    Raises
    ------
    UsageError
        If `ids` has another shape or type, or there is no such group.
    DataError
        If the atoms cannot be divided into molecules of n_atoms atoms.
    """
    if ids is not None:
        given = np.asarray(ids)
        if given.dtype.kind not in "iu" or given.ndim not in (1, 2) or given.shape[-1] != n_atoms or not given.size:
            raise UsageError(
                f"ids has shape {given.shape} and type {given.dtype}; integers of shape ({n_atoms},) or "
                f"(n_molecules, {n_atoms}) are needed: the model has {n_atoms} atoms."
            )
        return np.ascontiguousarray(given.reshape(-1, n_atoms), dtype=np.int64)
    chosen = _per_atom(lmp, "id")
    molecule = _per_atom(lmp, "molecule") if lmp.extract_setting("molecule_flag") == 1 else np.zeros_like(chosen)
    inside = _in_group(lmp, group)
    order = np.lexsort((chosen, molecule))
    order = order[inside[order]]
    chosen, molecule = chosen[order], molecule[order]
    if not chosen.size:
        raise DataError(f"There are no atoms in group '{group}'.")
    if not molecule.any():  # the atom style or the data have none
        if chosen.size % n_atoms:
            raise DataError(
                f"Group '{group}' has {chosen.size} atoms and no molecule IDs, which does not divide into molecules of "
                f"{n_atoms} atoms, as the model has: give another group, or ids."
            )
        return chosen.reshape(-1, n_atoms)
    numbers, counts = np.unique(molecule, return_counts=True)
    for number, count in zip(numbers, counts, strict=True):
        if count != n_atoms:
            raise DataError(
                f"Molecule {number} has {count} atoms in group '{group}', the model has {n_atoms}: give another group, "
                "or ids."
            )
    return chosen.reshape(-1, n_atoms)


def require_elements(lmp: Any, ids: _Ints, z: npt.NDArray[Any], elements: Sequence[str] | None) -> None:
    """Raise DataError unless the elements of each molecule are those of the model, in its order.

    Parameters
    ----------
    lmp : lammps.lammps
        The simulation.
    ids : ndarray of int64, shape (n_molecules, n_atoms)
        Atom IDs.
    z : ndarray, shape (n_atoms,)
        Atomic numbers of the model; all 0: unknown, nothing is compared.
    elements : sequence of str, optional
        Symbols by atom type; by default from masses.

    Raises
    ------
    UsageError
        If `elements` does not give the symbol of an element for each type, or is needed.
    DataError
        If an ID does not exist, a mass is that of no element, or elements differ.
    """
    all_ids, all_types = _per_atom(lmp, "id"), _per_atom(lmp, "type")
    order = np.argsort(all_ids)
    place = np.minimum(np.searchsorted(all_ids, ids, sorter=order), all_ids.size - 1)
    missing = all_ids[order[place]] != ids
    if missing.any():
        raise DataError(f"LAMMPS has no atom of ID {ids[missing][0]}.")
    types = all_types[order[place]]
    if not np.any(z):
        return
    numbers = np.zeros(lmp.extract_setting("ntypes") + 1, dtype=np.int64)
    used = np.unique(types)
    numbers[used] = _from_masses(lmp, used) if elements is None else _from_symbols(elements, numbers.size - 1)[used - 1]
    for number, (found, atoms) in enumerate(zip(numbers[types], ids, strict=True)):
        if not np.array_equal(found, z):
            raise DataError(
                f"Molecule {number + 1} of {len(ids)} (atom IDs {atoms.min()} to {atoms.max()}) is "
                f"{symbols_of(found)}, the model was trained on {symbols_of(z)}"
                + (": give ids, in the order of the training set." if sorted(found) == sorted(z) else ".")
            )


def _per_atom(lmp: Any, name: str) -> _Ints:
    """Return an integer of all atoms on all ranks; the order is the same for all names."""
    return np.array(lmp.gather_concat(name, 0, 1), dtype=np.int64)


def _in_group(lmp: Any, group: str) -> npt.NDArray[np.bool_]:
    """Return which atoms are in a group, in the order of `_per_atom`."""
    if group not in lmp.available_ids("group"):
        raise UsageError(f"LAMMPS has no group '{group}'.")
    if group == "all":
        return np.ones(int(lmp.get_natoms()), dtype=bool)
    # the library shows membership only as bits whose meaning it does not tell; this compute is 0 outside of its group
    name = "fastgdml_group"
    lmp.command(f"compute {name} {group} property/atom id")
    try:
        return np.array(lmp.gather_concat(f"c_{name}", 1, 1)) != 0
    finally:
        lmp.command(f"uncompute {name}")


def _from_masses(lmp: Any, types: _Ints) -> _Ints:
    if lmp.extract_setting("rmass_flag") == 1:
        raise UsageError("The atoms have masses of their own: give elements, the symbol of each atom type.")
    masses = lmp.extract_atom("mass")
    standard = np.array(MASSES)
    numbers = []
    for kind in types:
        mass = masses[int(kind)]
        number = int(np.argmin(np.abs(standard - mass)))
        if number == 0 or abs(standard[number] - mass) > 0.5:
            raise DataError(
                f"Atom type {kind} has mass {mass:g}, which is that of no element: give elements, the symbol of each "
                "atom type."
            )
        numbers.append(number)
    return np.array(numbers, dtype=np.int64)


def _from_symbols(elements: Sequence[str], n_types: int) -> _Ints:
    unknown = [symbol for symbol in elements if symbol not in SYMBOLS[1:]]
    if len(elements) != n_types or unknown:
        raise UsageError(
            f"elements is {list(elements)}; the symbols of {n_types} atom types are needed"
            + (f", and {unknown[0]!r} is none." if unknown else ".")
        )
    return np.array([SYMBOLS.index(symbol) for symbol in elements], dtype=np.int64)
