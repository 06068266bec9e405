"""Flat model files (``.fgdml``): what the C library loads. The bytes are those of a native model in memory.

docs/reference/model_file.md describes the format; src/model_image.c writes and reads it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from . import _core
from .errors import DataError, FileFormatError
from .model_arrays import ModelArrays
from .npz import FLAT_MODEL, replacing


def load_flat(path: str | os.PathLike[str]) -> _core.Model:
    """Map a flat model file into memory.

    Raises
    ------
    FileFormatError
        If the file cannot be read, is damaged, or of an unknown version.
    """
    try:
        return _core.model_from_file(os.fsencode(path))
    except OSError as error:
        raise FileFormatError(f"{error}.") from None


def export_flat(path: str | os.PathLike[str], model: Mapping[str, Any]) -> None:
    """Write a flat model file, atomically.

    Parameters
    ----------
    path : path-like
        The file; replaced if it exists.
    model : mapping
        A model of fastgdml or sgdml.

    Raises
    ------
    DataError
        If this is no model, or the names of its units are too long for the file (31 bytes).
    FileFormatError
        If the file cannot be written.
    """
    arrays = ModelArrays.of(model)
    for key, unit in (("e_unit", arrays.e_unit), ("r_unit", arrays.r_unit)):
        if len(unit.encode()) > 31:
            raise DataError(f"The name of the unit {key}, {unit!r}, is too long: a model file holds up to 31 bytes.")
    with replacing(path, FLAT_MODEL) as file:
        file.write(arrays.native().image())
