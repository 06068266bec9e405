"""ASE calculator.

>>> from fastgdml.drivers.ase import FastGDMLCalculator
>>> atoms.calc = FastGDMLCalculator("model.npz")
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    from ase import Atoms, units
    from ase.calculators.calculator import BaseCalculator, all_changes
except ImportError as error:
    raise ImportError("The ASE calculator needs ASE: pip install 'fastgdml[ase]'") from error

from ..dataset import text
from ..elements import SYMBOLS
from ..errors import DataError, UsageError
from ..model import load_model, normalize_model
from ..predict import GDMLPredict

_log = logging.getLogger(__name__)

# By lower-case name without blanks: energies in eV, lengths in Angstrom.
_ENERGY_UNITS = {
    "ev": 1.0,
    "mev": 1e-3,
    "kcal/mol": units.kcal / units.mol,
    "kj/mol": units.kJ / units.mol,
    "hartree": units.Hartree,
    "ha": units.Hartree,
    "eh": units.Hartree,
    "a.u.": units.Hartree,
    "millihartree": units.Hartree / 1000,
    "mha": units.Hartree / 1000,
    "rydberg": units.Rydberg,
    "ry": units.Rydberg,
}
_LENGTH_UNITS = {
    "ang": 1.0,
    "angstrom": 1.0,
    "a": 1.0,
    "å": 1.0,
    "bohr": units.Bohr,
    "a.u.": units.Bohr,
    "nm": 10.0,
}


class FastGDMLCalculator(BaseCalculator):
    """Energy and forces of a trained model for ASE.

    Parameters
    ----------
    model : path-like or mapping
        Model file, or a model as returned by `GDMLTrain.train` or `load_model`.
    e_unit, r_unit : str or float, optional
        Units of energy and length of the model: a name ("kcal/mol", "eV", "Hartree", "Ang", "Bohr", ...), or the size
        of the unit in eV or Angstrom. By default those recorded in the model.
    max_processes : int, optional
        Number of threads. All by default.

    Raises
    ------
    UsageError
        If the units are neither recorded nor given, or unknown.
    DataError
        If this is no model; in calculations, if the atoms or their cell are not those that the model was trained on.

    Notes
    -----
    A model of a periodic system holds in the cell that it was trained in. Atoms in another cell are refused; atoms
    without a cell are taken to be in the model's. A model of a molecule ignores the cell: it must not be wrapped.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (as ASE declares it)

    def __init__(
        self,
        model: str | os.PathLike[str] | Mapping[str, Any],
        e_unit: str | float | None = None,
        r_unit: str | float | None = None,
        max_processes: int | None = None,
    ) -> None:
        super().__init__(use_cache=False)  # ASE's cache copies all of the atoms at every step
        entries = normalize_model(model) if isinstance(model, Mapping) else load_model(model)
        self._e_unit = _unit_size(e_unit, entries, "e_unit", _ENERGY_UNITS)
        self._r_unit = _unit_size(r_unit, entries, "r_unit", _LENGTH_UNITS)
        lattice = entries.get("lattice")
        if lattice is not None and np.shape(lattice) != (3, 3):
            raise DataError(
                f"The model has lattices of shape {np.shape(lattice)}; the calculator takes models of one cell, (3, 3)."
            )
        self.predictor = GDMLPredict(entries, max_processes=max_processes)
        self._numbers = np.array(entries["z"], dtype=int)
        self._cell = None if lattice is None else np.asarray(lattice).T * self._r_unit
        self._calculated: dict[str, np.ndarray] | None = None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation: names of `ase.calculators.calculator.all_changes`.

        Only what the energy depends on is compared, exactly: positions, numbers, and the cell of a periodic model.
        """
        if self._calculated is None:
            return list(all_changes)
        state = self._state(atoms)
        return [name for name, before in self._calculated.items() if not np.array_equal(before, state[name])]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Calculate all properties of the atoms.

        Raises
        ------
        DataError
            If atoms, their order or their cell differ from the model's, or a geometry cannot be evaluated.
        """
        if atoms is None:
            raise UsageError("There is nothing to calculate yet: attach the calculator to atoms (atoms.calc = ...).")
        if self._calculated is None or set(system_changes) - {"positions"}:
            self._require_same_system(atoms)
        E, F = self.predictor.predict(atoms.positions.reshape(1, -1) / self._r_unit)
        energy = float(E[0]) * self._e_unit
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": F.reshape(-1, 3) * (self._e_unit / self._r_unit),
        }
        self._calculated = {name: np.array(value) for name, value in self._state(atoms).items()}
        self.atoms = atoms

    def _state(self, atoms: Atoms) -> dict[str, np.ndarray]:
        state = {"positions": atoms.positions, "numbers": atoms.numbers}
        if self._cell is not None:
            state |= {"cell": atoms.cell.array, "pbc": atoms.pbc}
        return state

    def _require_same_system(self, atoms: Atoms) -> None:
        """Raise DataError unless the atoms are those of the model, in its order and cell."""
        if not np.array_equal(atoms.numbers, self._numbers):
            same_atoms = np.array_equal(np.sort(atoms.numbers), np.sort(self._numbers))
            raise DataError(
                f"The atoms are {_formula(atoms.numbers)}, the model was trained on {_formula(self._numbers)}. "
                + ("They must come in the order of the training set." if same_atoms else "It knows no other molecule.")
            )
        if self._cell is None:
            if atoms.pbc.any():
                _log.warning(
                    "The atoms have periodic boundary conditions, the model has none: it takes the positions as they "
                    "are, so the molecule must not be wrapped into the cell."
                )
        elif atoms.cell.rank > 0 and not np.allclose(atoms.cell.array, self._cell, rtol=1e-6, atol=1e-6):
            raise DataError(
                f"The cell of the atoms is {atoms.cell.array.tolist()}, the model was trained in {self._cell.tolist()} "
                "(Angstrom, vectors as rows) and holds in no other."
            )


def recorded_units(model: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the units of energy (eV) and length (Angstrom) that a model records, or None if it records none known."""
    try:
        return _unit_size(None, model, "e_unit", _ENERGY_UNITS), _unit_size(None, model, "r_unit", _LENGTH_UNITS)
    except UsageError:
        return None


def _unit_size(given: str | float | None, model: Mapping[str, Any], key: str, known: Mapping[str, float]) -> float:
    """Return the size of a unit that is given, or recorded in the model under `key`."""
    if given is None:
        if key not in model:
            raise UsageError(
                f"The model does not record its units ('{key}' missing): give e_unit and r_unit, for example "
                "e_unit='kcal/mol', r_unit='Ang'."
            )
        given = text(model[key])
    if isinstance(given, str):
        size = known.get("".join(given.split()).lower())
        if size is None:
            raise UsageError(
                f"{key} is {given!r}, an unknown unit. Known are {', '.join(known)}; or give its size as a number, in "
                f"{'eV' if known is _ENERGY_UNITS else 'Angstrom'}."
            )
        return size
    if not 0 < given < np.inf:
        raise UsageError(f"{key} is {given}; a positive number is needed.")
    return float(given)


def _formula(numbers: npt.ArrayLike) -> str:
    """Return chemical symbols in order, as C C O H H."""
    symbols = [SYMBOLS[number] for number in np.asarray(numbers)]
    return " ".join(symbols if len(symbols) <= 60 else [*symbols[:60], f"... ({len(symbols)} atoms)"])
