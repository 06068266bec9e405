"""What every driver for an engine needs of a model: a predictor, the sizes of its units, and whether a cell fits."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from ..c_library import library_path
from ..errors import DataError, FastGDMLError, InsufficientMemoryError, UsageError
from ..model import normalize_model
from ..native import _core
from ..predict import GDMLPredict
from ..types import Array

AnyModel = GDMLPredict | str | os.PathLike[str] | Mapping[str, Any]

# fastgdml_status
_ERRORS: dict[int, type[FastGDMLError]] = {1: UsageError, 4: InsufficientMemoryError, 5: DataError, 6: UsageError}


def open_model(model: AnyModel, max_processes: int | None = None, backend: str = "cpu") -> GDMLPredict:
    """Return a predictor for a model file (npz or flat), a model, or the predictor that is given.

    Raises
    ------
    UsageError
        If threads or a backend are given for a predictor, which has its own.
    """
    if isinstance(model, GDMLPredict):
        if max_processes is not None or backend != "cpu":
            raise UsageError("max_processes and backend are those of the GDMLPredict: give them where it is made.")
        return model
    entries = normalize_model(model) if isinstance(model, Mapping) else model
    return GDMLPredict(entries, max_processes=max_processes, backend=backend)


def unit_sizes(
    predictor: GDMLPredict, e_unit: str | float | None, r_unit: str | float | None, energy: str, length: str
) -> tuple[float, float]:
    """Return the units of a model in those of an engine.

    Parameters
    ----------
    predictor : GDMLPredict
        The model.
    e_unit, r_unit : str or float or None
        Name of the model's unit, or its size in the engine's; None means what the model records.
    energy, length : str
        Names of the units of the engine.

    Returns
    -------
    tuple of float
        Size of the model's unit of energy, and of length.

    Raises
    ------
    UsageError
        If a unit is neither recorded nor given, or unknown, or its size is not positive.
    """
    return (
        _size("e_unit", e_unit, predictor.e_unit, _core.energy_factor, energy),
        _size("r_unit", r_unit, predictor.r_unit, _core.length_factor, length),
    )


def _size(key: str, given: str | float | None, recorded: str, factor: Callable[[str, str], float], base: str) -> float:
    unit = recorded if given is None else given
    if unit == "":
        raise UsageError(
            f"The model does not record its units ('{key}' missing): give e_unit and r_unit, for example "
            "e_unit='kcal/mol', r_unit='Ang'."
        )
    if isinstance(unit, str):
        try:
            return factor(unit, base)
        except ValueError as error:
            raise UsageError(
                f"{key} is {unit!r}, an unknown unit ({error}). Or give its size as a number, in {base}."
            ) from None
    if not 0 < unit < np.inf:
        raise UsageError(f"{key} is {unit}; a positive number is needed.")
    return float(unit)


def require_cell(predictor: GDMLPredict, lattice: Array, what: str) -> None:
    """Raise DataError unless a model of a periodic system was trained in this cell, which may be turned.

    Parameters
    ----------
    predictor : GDMLPredict
        The model; one of several cells holds in any.
    lattice : ndarray, shape (3, 3)
        Lattice vectors as columns, in the unit of the model.
    what : str
        What to call the cell in the message.
    """
    try:
        predictor.require_cell(lattice, what)
    except DataError as error:
        raise DataError(f"{error} To evaluate it there nevertheless, give any_cell=True.") from None


def make_whole(predictor: GDMLPredict, R: Array, lattice: Array) -> None:
    """Put molecules together, in place, that an engine has wrapped into its cell; `fastgdml_make_whole` says how.

    Parameters
    ----------
    predictor : GDMLPredict
        The model. Nothing happens if it is of a periodic system.
    R : ndarray, shape (n_geo, 3 n_atoms)
        Positions in the unit of the model, contiguous.
    lattice : ndarray, shape (3, 3)
        Lattice vectors as columns, in the unit of the model. One that spans no cell moves nothing.

    Raises
    ------
    DataError
        If a molecule is broken and cannot be put together in this cell.
    """
    library = c_library()
    columns = np.ascontiguousarray(lattice, dtype=np.float64)
    raise_for(library.fastgdml_make_whole(predictor.native.address, len(R), columns.ctypes.data, R.ctypes.data))


@cache
def c_library() -> ctypes.CDLL:
    """Return the C library of this installation."""
    library = ctypes.CDLL(str(library_path()))
    library.fastgdml_last_error.restype = ctypes.c_char_p
    library.fastgdml_make_whole.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
    return library


def raise_for(status: int) -> None:
    """Raise the failure of a function of the C library in this thread, unless its status is 0."""
    if status:
        text = c_library().fastgdml_last_error().decode(errors="replace")
        raise _ERRORS.get(status, FastGDMLError)(text + ".")
