"""Flat model files (``.fgdml``): what the C library loads. The bytes are those of a native model in memory.

docs/reference/model_file.md describes the format; src/model_build.c writes it, src/model_image.c reads it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import DataError, FileFormatError
from .model_arrays import ModelArrays
from .native import _core
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


def flat_entries(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a flat model file holds under the keys of models.

    It lacks what prediction does not need: the training and validation points, the solver, the expected errors, and
    those of leaving points out.

    Raises
    ------
    FileFormatError
        If the file cannot be read, is damaged, or of an unknown version.
    """
    arrays = ModelArrays.of_native(load_flat(path))
    entries: dict[str, Any] = {
        "z": arrays.z,
        "R_desc": arrays.x.T,
        "R_d_desc_alpha": arrays.v,
        "sig": arrays.sig,
        "std": arrays.std,
        "c": arrays.c,
        "n_perms": len(arrays.pair_images),
        "dataset_name": arrays.name or "unknown",
        "dataset_theory": arrays.theory or "unknown",
        "e_unit": arrays.e_unit,
        "r_unit": arrays.r_unit,
        # a model that was trained without energies has no offset
        "use_E": arrays.alphas_E is not None or arrays.c != 0,
    }
    if arrays.weights is not None:
        entries["desc_weights"] = arrays.weights
    if arrays.samples is not None:
        entries |= arrays.samples.entries()
    if arrays.alphas_E is not None:
        entries["alphas_E"] = arrays.alphas_E
    if arrays.image_rule is not None:
        entries["image_rule"] = arrays.image_rule
        # without a cell of its own the model is evaluated in that of each geometry
        entries["lattice"] = (
            np.broadcast_to(np.eye(3), (len(arrays.x), 3, 3)) if arrays.cell is None else arrays.cell.lattice
        )
    for which in ("train", "valid"):
        entries[f"md5_{which}"], entries[f"idxs_{which}"] = b"", np.empty(0, dtype=np.int64)
    return entries


def load_image(image: bytes) -> _core.Model:
    """Return the model whose file has this content.

    Raises
    ------
    FileFormatError
        If it is damaged, or cannot be written to a temporary file.
    """
    # the model keeps a mapping, which outlives the name of the file; not so on Windows, where it is read
    with tempfile.TemporaryDirectory(prefix="fastgdml_") as folder:
        path = os.path.join(folder, "model.fgdml")
        try:
            with open(path, "wb") as file:
                file.write(image)
        except OSError as error:
            raise FileFormatError(f"A model cannot be unpickled through a temporary file: {error}.") from None
        return load_flat(path)


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
