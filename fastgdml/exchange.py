"""Models for sgdml: the entries and the file that sgdml 1.0.3 itself reads.

Everything that sgdml needs to predict is in plain arrays of the same names. Its commands ``show``, ``validate``,
``test``, ``select`` and ``resume`` also call ``f_err.item()`` and ask the result for "mae" and "rmse". No array of
numbers can answer that, a dictionary in an object array can, and NumPy stores one as a pickle. Files for sgdml are
therefore the only ones of fastgdml that hold pickles: one dictionary of two floats for the forces and one for the
energies.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

from .archive import NewArchive
from .cell import Cell
from .errors import DataError
from .model import normalize_model, save_model
from .npz import MODEL, SGDML_MODEL, kind_of, replacing, require_target, text

_log = logging.getLogger(__name__)

_ERRORS = ("f_err", "e_err")
_FINGERPRINTS = ("md5_train", "md5_valid", "md5_test")


def to_sgdml(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model with the keys that sgdml 1.0.3 expects.

    Parameters
    ----------
    model : mapping
        A model of fastgdml or sgdml.

    Returns
    -------
    dict
        The same arrays; ``f_err`` and, with energies, ``e_err`` are dictionaries with "mae" and "rmse" as in sgdml. To
        have it in a file, use `export_sgdml`. Samples for standard deviations are left out, with a warning.

    Raises
    ------
    DataError
        If this is no model, or one that sgdml would evaluate differently: with weights of pairs, of a skewed cell with
        true minimum images, or with a cell for each training point.
    """
    entries: dict[str, Any] = dict(normalize_model(model))
    for key in ("schema", "solver_reason", "label_noise", "weights_gain"):
        entries.pop(key, None)
    if [entries.pop(key) for key in list(entries) if key.startswith("std_") or key == "loo_f"]:
        _log.warning("sgdml knows no standard deviations: the samples for them are left out of its file.")
    if entries.get("desc_weights") is not None:
        raise DataError(
            "The model has learned weights of pairs of atoms (desc_weights), which sgdml does not know: it would "
            "predict wrongly. Train with weights 'none' to use the model in sgdml."
        )
    rule = text(entries.pop("image_rule", "rounding"))
    lattice = np.asarray(entries.get("lattice", np.eye(3)), dtype=np.float64)
    if lattice.shape != (3, 3):
        raise DataError(
            f"The model has lattices of shape {lattice.shape}; sgdml knows one cell for all geometries only."
        )
    if rule != "rounding" and not Cell(lattice).rounding_is_minimal:
        raise DataError(
            f"The model folds distances into its cell by the rule '{rule}'. sgdml knows only its own, 'rounding', "
            "which gives other distances in this skewed cell. Train with image_rule='rounding' to use "
            "the model in sgdml."
        )
    for key in _ERRORS:
        measures = {measure: entries.pop(f"{key}_{measure}", np.nan) for measure in ("mae", "rmse")}
        if key == "f_err" or entries["use_E"]:
            entries[key] = {measure: float(value) for measure, value in measures.items()}
    for key in _FINGERPRINTS:
        entries[key] = text(entries[key]).encode("ascii", "replace")
    sig = float(entries["sig"])
    entries["sig"] = int(sig) if sig.is_integer() else sig
    return entries


def export_sgdml(path: str | os.PathLike[str], model: Mapping[str, Any]) -> None:
    """Write a model file for sgdml 1.0.3, atomically.

    Parameters
    ----------
    path : path-like
        The file; replaced if it exists.
    model : mapping
        A model of fastgdml or sgdml.

    Raises
    ------
    DataError
        As `to_sgdml`.
    FileFormatError
        If the file cannot be written.
    """
    entries = to_sgdml(model)
    if not isinstance(entries["sig"], int):
        _log.warning(
            "sigma is %g, no integer: sgdml predicts correctly with NumPy, but its PyTorch mode rounds sigma down and "
            "'sgdml show' fails.",
            entries["sig"],
        )
    objects = {key: entries.pop(key) for key in _ERRORS if key in entries}
    with replacing(path, SGDML_MODEL) as file, NewArchive(file) as archive:
        for key, value in entries.items():
            archive.add(key, np.asanyarray(value))
        for key, value in objects.items():
            with archive.entry(key) as member:
                member.write(_pickled(value))


def _pickled(value: dict[str, float]) -> bytes:
    """Return the npy file of an object array that holds `value`.

    The functions that rebuild the array go by the names of NumPy 1, which NumPy 2 knows as well, but not the reverse.
    """
    array = np.empty((), dtype=object)
    array[()] = value
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
    buffer.write(pickle.dumps(array, protocol=2).replace(b"numpy._core.", b"numpy.core."))
    return buffer.getvalue()


# ---- files whose errors are recorded anew -------------------------------------------------------------------------


def require_update(path: str | os.PathLike[str]) -> None:
    """Raise FileFormatError unless a model file can be replaced by one with other expected errors."""
    require_target(path, MODEL, (SGDML_MODEL,))


def update_model(path: str | os.PathLike[str], model: Mapping[str, Any]) -> None:
    """Replace a model file by one with other expected errors; a file of sgdml stays one that sgdml reads."""
    if kind_of(path) == SGDML_MODEL:
        export_sgdml(path, model)
    else:
        save_model(path, model)
