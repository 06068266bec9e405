"""Names of units, and what two files that record units have in common.

Files name their units of energy and length in the entries ``e_unit`` and ``r_unit``; forces are in e_unit/r_unit. The
table of names and sizes is that of the C library (src/units.c, CODATA 2018): upper and lower case and blanks do not
count, and several spellings are known, such as Ang, Angstrom, Å; Bohr, a0; Hartree, Ha, Eh; kcal/mol, kcal mol-1; au.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import DataError
from .native import _core
from .npz import text


@dataclass(frozen=True)
class Units:
    """Units of energy and length by name, as a file records them; empty where it does not."""

    energy: str
    length: str

    @classmethod
    def of(cls, entries: Mapping[str, Any]) -> Units:
        """Return the units that a dataset, task or model records."""
        return cls(_recorded(entries, "e_unit"), _recorded(entries, "r_unit"))

    def __str__(self) -> str:
        return f"{self.energy or 'an unknown unit'} and {self.length or 'an unknown unit'}"

    @property
    def force(self) -> str:
        """Name of the unit of force, empty unless both are known."""
        return f"{self.energy}/{self.length}" if self.energy and self.length else ""


@dataclass(frozen=True)
class Conversion:
    """Factors from the units of one file to those of another; all 1 where nothing is to be converted.

    Attributes
    ----------
    energy, length, force : float
        What to multiply with.
    """

    energy: float = 1.0
    length: float = 1.0

    @property
    def force(self) -> float:
        """Factor of forces."""
        return self.energy / self.length

    def __bool__(self) -> bool:
        return self.energy != 1 or self.length != 1


SAME = Conversion()


def _recorded(entries: Mapping[str, Any], key: str) -> str:
    value = entries.get(key)
    if value is None:
        return ""
    name = text(value).strip()
    return "" if name.lower() in ("none", "unknown", "n/a") else name


def energy_factor(unit: str, base: str) -> float:
    """Return the size of a unit of energy in another.

    Raises
    ------
    DataError
        If one of the names is unknown.
    """
    return _factor(_core.energy_factor, unit, base)


def length_factor(unit: str, base: str) -> float:
    """Return the size of a unit of length in another.

    Raises
    ------
    DataError
        If one of the names is unknown.
    """
    return _factor(_core.length_factor, unit, base)


def _factor(factor: Callable[[str, str], float], unit: str, base: str) -> float:
    try:
        return factor(unit, base)
    except (ValueError, UnicodeError) as error:
        raise DataError(f"{error}.") from None


def conversion(one: Units, other: Units, one_name: str, other_name: str) -> Conversion:
    """Return how to convert what is in the units of one file to those of another.

    A unit that one of them does not record is taken to be that of the other.

    Parameters
    ----------
    one, other : Units
        Converted from, and to.
    one_name, other_name : str
        What to call them in messages.

    Raises
    ------
    DataError
        If units have different names of which one is unknown.
    """
    factors = {}
    for what, factor in (("energy", _core.energy_factor), ("length", _core.length_factor)):
        a, b = getattr(one, what), getattr(other, what)
        factors[what] = 1.0
        if not a or not b or _plain(a) == _plain(b):
            continue
        try:
            size = factor(a, b)
        except (ValueError, UnicodeError) as error:
            raise DataError(
                f"The {one_name} records the unit of {what} '{a}', the {other_name} '{b}', and they cannot be "
                f"converted ({error}). Correct the entry {'e_unit' if what == 'energy' else 'r_unit'} of the file that "
                "is wrong."
            ) from None
        # the same unit under two names
        factors[what] = 1.0 if abs(size - 1) < 1e-12 else size
    return Conversion(**factors)


def _plain(name: str) -> str:
    return "".join(name.split()).lower()
