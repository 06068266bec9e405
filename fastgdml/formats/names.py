"""Which of the numbers in a file are the energies and forces.

Programs call them differently. Usual names are recognised; where several could be meant, nothing is guessed: the names
are listed, and the user says which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from .frames import Facts, ReadOptions, place

_ENERGY_WORDS = {"energy", "energies", "e", "etot", "toten", "totenergy", "epot", "u0"}
_FORCE_WORDS = {"force", "forces", "f", "frc", "forcefield"}
_GRADIENT_WORDS = {"gradient", "gradients", "grad", "grads", "engrad"}
# Energies that are not the potential energy of the frame, and forces that are not its forces.
_OTHER = {
    "kinetic", "kin", "ekin", "atomization", "atomisation", "formation", "binding", "adsorption", "interaction",
    "dispersion", "disp", "zpe", "zero", "uncertainty", "std", "var", "error", "err", "weight", "weights", "config",
    "conserved", "local", "per", "peratom", "atomic", "atom", "site", "max", "min", "mean", "shift", "homo", "lumo",
    "old", "fermi", "unit", "spring", "rms", "energies_per_atom", "virial", "stress",
}  # fmt: skip


def _words(name: str) -> list[str]:
    """Split a name into its words in lower case: DFT_totalEnergy -> dft, total, energy."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return [word for word in re.split(r"[^A-Za-z0-9]+", spaced.lower()) if word]


def _is(name: str, words: set[str]) -> bool:
    found = _words(name)
    return bool(words.intersection(found)) and not _OTHER.intersection(found)


class Labels:
    """Finds energies and forces among named values, once, and then holds on to those names.

    Parameters
    ----------
    path : str
        The source, for messages.
    options : ReadOptions
        What the user named.
    facts : Facts
        Where to record what was found.
    """

    def __init__(self, path: str, options: ReadOptions, facts: Facts) -> None:
        self._path = path
        self._options = options
        self._facts = facts
        self._energy: str | None = None
        self._forces: str | None = None
        self._equal_energies: tuple[str, ...] = ()
        self._chosen = False
        self._sign = 1.0

    def of(
        self, per_frame: Mapping[str, Any], per_atom: Mapping[str, Any], n_atoms: int, frame: int
    ) -> tuple[float | None, np.ndarray | None]:
        """Return the energy and forces of a frame, and note what else there is.

        Parameters
        ----------
        per_frame, per_atom : mapping
            Everything the frame holds besides atoms, positions and cell, by name.
        n_atoms : int
            Number of atoms.
        frame : int
            Number of the frame, for messages.
        """
        if not self._chosen:
            self._choose(per_frame, per_atom, n_atoms, frame)
        energy = None if self._energy is None else self._number(per_frame, self._energy, frame)
        for name in self._equal_energies:
            if name in per_frame and float(per_frame[name]) != energy:
                raise DataError(
                    f"{place(self._path, frame)}: '{self._energy}' is {energy}, '{name}' is {per_frame[name]}; they "
                    "were equal before. " + _choice("energy", (str(self._energy), name))
                )
        forces = None
        if self._forces is not None:
            if self._forces not in per_atom:
                raise DataError(
                    f"{place(self._path, frame)}: no forces ('{self._forces}'), which other frames have. Remove the "
                    "frame, or complete it."
                )
            forces = np.asarray(per_atom[self._forces], dtype=np.float64).reshape(n_atoms, 3) * self._sign
        if self._energy is None and self._options.use_E and not self._options.energy:
            late = [name for name, value in per_frame.items() if _is(name, _ENERGY_WORDS) and _is_number(value)]
            if late:
                raise DataError(
                    f"{place(self._path, frame)}: it has an energy ('{late[0]}'), the frames before have none. "
                    "Complete them, or leave out all energies (--no_E)."
                )
        self._facts.left_out.update(per_frame)
        self._facts.left_out.update(per_atom)
        self._facts.left_out.difference_update({self._energy or "", self._forces or "", *self._equal_energies})
        return energy, forces

    def _choose(self, per_frame: Mapping[str, Any], per_atom: Mapping[str, Any], n_atoms: int, frame: int) -> None:
        numbers = {name: float(np.ravel(v)[0]) for name, v in per_frame.items() if _is_number(v)}
        vectors = {name for name, value in per_atom.items() if np.size(value) == 3 * n_atoms}
        if self._options.use_E:
            self._energy, self._equal_energies = choose_energy(self._path, self._options.energy, numbers)
        if self._options.use_F:
            self._forces = choose_forces(self._path, self._options.forces, vectors)
        self._facts.energy, self._facts.forces = self._energy, self._forces
        self._facts.gradients = is_gradient(self._forces, self._options)
        self._sign = -1.0 if self._facts.gradients else 1.0
        self._chosen = True

    def _number(self, per_frame: Mapping[str, Any], name: str, frame: int) -> float:
        if name not in per_frame:
            raise DataError(
                f"{place(self._path, frame)}: no energy ('{name}'), which other frames have. Remove the frame, or "
                "leave out all energies (--no_E)."
            )
        if not _is_number(per_frame[name]):
            raise DataError(f"{place(self._path, frame)}: the energy '{name}' is {per_frame[name]!r}, no number.")
        return float(np.ravel(per_frame[name])[0])


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float | np.number):
        return True
    return isinstance(value, np.ndarray) and value.size == 1 and bool(np.issubdtype(value.dtype, np.number))


def choose_energy(path: str, wanted: str | None, values: Mapping[str, float]) -> tuple[str | None, tuple[str, ...]]:
    """Return the name of the energies, and other names of the same numbers.

    Raises
    ------
    UsageError
        If there is none of the name wanted, or several candidates with different numbers.
    """
    if wanted is not None:
        return _wanted(path, "energy", wanted, values), ()
    found = [name for name in values if _is(name, _ENERGY_WORDS)]
    if not found:
        return None, ()
    if len({values[name] for name in found}) > 1:
        listed = ", ".join(f"'{name}' ({values[name]:.10g})" for name in found)
        hint = ""
        if any(set(_words(name)) >= {"free", "energy"} for name in found):
            hint = " Forces are the negative gradient of the free energy, where a program tells both."
        raise UsageError(f"{path} has several energies: {listed}. {_choice('energy', found)}{hint}")
    first = min(found, key=lambda name: (len(_words(name)), found.index(name)))
    return first, tuple(name for name in found if name != first)


def choose_forces(path: str, wanted: str | None, names: Iterable[str]) -> str | None:
    """Return the name of the forces or gradients; see `choose_energy`."""
    names = list(names)
    if wanted is not None:
        return _wanted(path, "forces", wanted, names)
    found = sorted(name for name in names if _is(name, _FORCE_WORDS | _GRADIENT_WORDS))
    if len(found) > 1:
        raise UsageError(f"{path} has several forces: {', '.join(map(repr, found))}. {_choice('forces', found)}")
    return found[0] if found else None


def is_gradient(name: str | None, options: ReadOptions) -> bool:
    """Return whether the numbers of this name are gradients rather than forces."""
    return name is not None and (options.gradients or bool(_GRADIENT_WORDS.intersection(_words(name))))


def _wanted(path: str, what: str, wanted: str, names: Iterable[str]) -> str:
    names = list(names)
    if wanted in names:
        return wanted
    there = f"There are: {', '.join(names)}." if names else "There are none."
    raise UsageError(f"{path} has no {what} named '{wanted}'. {there}")


def _choice(what: str, names: Iterable[str]) -> str:
    return "Say which to take: " + " or ".join(f"--{what} {name}" for name in names) + "."
