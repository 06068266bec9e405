"""Trained models. A model file is an npz archive with sgdml's keys.

Where sgdml stores pickled dictionaries (``f_err``, ``e_err``) and None (``md5_test``), fastgdml has plain arrays
(``f_err_mae``, ``f_err_rmse``, ``e_err_mae``, ``e_err_rmse``; an empty ``md5_test``) and a ``schema`` number. Models
of sgdml 0.4 to 1.0 and of programs built on it are converted when they are loaded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, TypedDict, cast

import numpy as np

from ._version import __version__
from .cell import Cell, image_rule_of
from .descriptor import desc_weights_of, jacobian_dot, n_pairs, perms_from_lin, tril_perms_lin
from .entries import MODEL, check_entries
from .errors import DataError
from .npz import load_npz, save_npz
from .perms import check_perms
from .task import require_type
from .types import Array, IntArray, Integers, Number, Text

_log = logging.getLogger(__name__)

SCHEMA = 1


class _Predictor(TypedDict):
    """What predictions need of every model. N atoms, M training points, D pairs of atoms, P permutations."""

    z: Integers  # (N,) atomic numbers
    R_desc: Array  # (D, M) descriptors of the training points: 1 / distance, times desc_weights where there are any
    R_d_desc_alpha: Array  # (M, D) their Jacobians times the coefficients, J alpha
    c: Number  # integration constant: added to the energy
    std: Number  # scale of the labels: predictions are multiplied by it
    sig: Number  # length scale sigma of the kernel
    tril_perms_lin: Integers  # (P D,) permutations of pairs; see `fastgdml.descriptor.tril_perms_lin`


class Model(_Predictor, total=False):
    """Keys of a model; docs/reference/files.md lists them with what may be left out. Others are kept as they are."""

    alphas_E: Array  # (M,) coefficients of energy constraints
    weights: Text  # "orbits" or "types": weights of which pairs were to be learned
    desc_weights: Array  # (D,) those that were learned, in R_desc and descriptors of queries; see `fastgdml.weights`
    weights_gain: Array  # (2,) shares by which they lower the errors of forces and energies on validation points
    lattice: Array  # (3, 3) or (M, 3, 3) lattice vectors of the training points, as columns
    image_rule: Text  # "minimum" or "rounding": which image of a neighbour counts; see `fastgdml.cell`
    r_unit: Text  # unit of length
    e_unit: Text  # unit of energy
    type: Text  # "m"
    schema: Number  # version of these keys
    code_version: Text  # version of the program that trained
    dataset_name: Text  # name of the dataset
    dataset_theory: Text  # its level of theory
    perms: Integers  # (P, N) permutations of atoms
    alphas_F: Array  # (3 N M,) coefficients of force constraints: training goes on from them
    lam: Number  # regularisation lambda
    label_noise: Number  # noise of force components, in their unit, that lambda stands for; NaN unless converged
    use_E: Number | np.bool_  # whether energies were fitted
    seed: Number  # of the draw of points
    idxs_train: Integers  # (M,) training points, by their numbers in the dataset
    md5_train: Text  # fingerprint of that dataset
    idxs_valid: Integers  # validation points
    md5_valid: Text  # fingerprint of their dataset
    n_test: Number  # number of test points, 0 before a test
    md5_test: Text  # fingerprint of their dataset, empty before a test
    f_err_mae: Number  # mean absolute error of components of forces, of the last validation or test; NaN before
    f_err_rmse: Number  # root mean square error of them
    e_err_mae: Number  # mean absolute error of energies; absent without energies
    e_err_rmse: Number  # root mean square error of them
    solver_name: Text  # "analytic" or "cg"
    solver_reason: Text  # why this solver was chosen
    solver_tol: Number  # cg: tolerance of the residual, relative to the labels
    solver_iters: Number  # cg: number of steps
    solver_resid: Number  # cg: residual at the end
    norm_y_train: Number  # cg: norm of the labels
    inducing_pts_idxs: Integers  # cg: columns of the kernel matrix in the preconditioner
    search_errors: Array  # (S, 5) of a search: sigma, force MAE and RMSE, energy MAE and RMSE of the validation, or NaN
    search_trials: Array  # (S, 3) of a search for sigma by "auto": number of training points, sigma, error compared
    std_R_d_desc_alpha: Array  # (S, M, D) J alpha of the samples for standard deviations
    std_alphas_E: Array  # (S, M) their coefficients of energy constraints
    std_c: Array  # (S,) their constants of the energy
    std_scale: Number  # what standard deviations are multiplied by
    loo_f: Array  # (M, N, 3) forces of the training points minus those predicted without the point or its group


REQUIRED = tuple(_Predictor.__annotations__)


def load_model(path: str | os.PathLike[str]) -> Model:
    """Load a model file written by fastgdml, sgdml or mbGDML.

    Returns
    -------
    dict
        The model with the keys of fastgdml.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged, no model, or holds pickled objects other than plain data.
    DataError
        If the model is incomplete or uses features that fastgdml does not know.
    """
    entries = load_npz(path, needed={*MODEL, "type", "f_err", "e_err", "use_cprsn", "interact_cut_off"})
    require_type(entries, "m", "model", path)
    return normalize_model(_storable(entries, path), str(path))


def _storable(entries: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Leave out what cannot be written again, objects that fastgdml does not use."""
    read = ("f_err", "e_err", "interact_cut_off")
    objects = {
        key
        for key, value in entries.items()
        if value is not None and key not in MODEL and key not in read and np.asarray(value, dtype=None).dtype == object
    }
    if objects:
        _log.warning(
            "%s: %s: Python objects, which fastgdml does not use, are left out.", path, ", ".join(sorted(objects))
        )
    return {key: value for key, value in entries.items() if key not in objects}


def save_model(path: str | os.PathLike[str], model: Mapping[str, Any]) -> None:
    """Write a model file, atomically and without pickles. Only a model is replaced."""
    if model.get("desc_weights") is not None:
        # Programs that know no weights would predict wrongly. None can do without this key, which follows from perms.
        model = {key: value for key, value in model.items() if key != "tril_perms_lin"}
    save_npz(path, model)


def missing_keys(model: Mapping[str, Any]) -> list[str]:
    """Return what a model lacks for predictions. With weights of pairs, `perms` stands for `tril_perms_lin`."""
    instead = {"tril_perms_lin": "perms"} if model.get("desc_weights") is not None else {}
    return [key for key in REQUIRED if model.get(key) is None and model.get(instead.get(key, "")) is None]


def normalize_model(entries: Mapping[str, Any], source: str = "model") -> Model:
    """Return a model with the keys of fastgdml from the entries of any model file.

    Raises
    ------
    DataError
        If arrays are missing or do not fit each other, or the model uses a descriptor that fastgdml lacks.
    """
    model: dict[str, Any] = {key: value for key, value in entries.items() if value is not None}
    missing = missing_keys(model)
    if missing:
        raise DataError(f"{source}: the model lacks {', '.join(missing)}.")
    _plain_errors(model)
    check_entries(model, MODEL, source)
    _require_known_features(model, source)
    _set_defaults(model)
    _check_relations(model, source)
    return cast(Model, {key: value for key, value in model.items() if value is not None})


def _plain_errors(model: dict[str, Any]) -> None:
    """Replace sgdml's dictionaries of errors by numbers."""
    for key in ("f_err", "e_err"):
        errors = model.pop(key, None)
        if isinstance(errors, np.ndarray) and errors.shape == ():
            errors = errors.item()
        if isinstance(errors, Mapping):
            for measure in ("mae", "rmse"):
                model[f"{key}_{measure}"] = errors.get(measure, np.nan)


def _require_known_features(model: dict[str, Any], source: str) -> None:
    if np.any(model.get("use_cprsn", False)):
        raise DataError(f"{source}: the model was trained with atom compression (use_cprsn), which is not supported.")
    cut_off = model.pop("interact_cut_off", None)
    if cut_off is not None and np.any(np.asarray(cut_off, dtype=object) != None):  # noqa: E711 (elementwise)
        raise DataError(f"{source}: the model has an interaction cut-off ({cut_off}), which is not supported.")


def _set_defaults(model: dict[str, Any]) -> None:
    """Set what a model file may lack."""
    if model.get("md5_test") is None:
        model["md5_test"] = np.array(b"")
    for key in ("f_err_mae", "f_err_rmse", "lam"):
        model.setdefault(key, np.float64("nan"))
    model.setdefault("n_test", np.int64(0))
    model.setdefault("use_E", np.bool_(True))
    for key in ("dataset_name", "dataset_theory", "solver_name", "code_version"):
        model.setdefault(key, np.array("unknown"))
    for key in ("idxs_train", "idxs_valid"):
        model.setdefault(key, np.empty(0, dtype=np.int64))
    for key in ("md5_train", "md5_valid"):
        model.setdefault(key, np.array(b""))


def _check_relations(model: dict[str, Any], source: str) -> None:
    """Raise DataError unless the entries of a model fit each other; permutations are set if only those of pairs are."""
    n_atoms, n_train = len(model["z"]), np.shape(model["R_desc"])[1]
    if n_atoms < 2 or n_train == 0:
        raise DataError(
            f"{source}: the model is of {n_atoms} atoms and {n_train} training points; two atoms and one point are "
            "needed."
        )
    try:
        _set_permutations(model, n_pairs(n_atoms))
        desc_weights_of(model, n_atoms)
        cell = Cell.of(model)
        if cell is not None:
            cell.require_for(n_train)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    columns = model.get("inducing_pts_idxs")
    n_rows = (3 * n_atoms + ("alphas_E" in model)) * n_train
    if columns is not None and np.size(columns) and np.max(columns) >= n_rows:
        raise DataError(
            f"{source}: inducing_pts_idxs must hold numbers of columns, 0 to {n_rows - 1}; found {np.max(columns)}."
        )


def _set_permutations(model: dict[str, Any], n_desc: int) -> None:
    """Set the permutations of pairs and those of atoms, of which a model may have only one; both must agree."""
    perms, lin = model.get("perms"), model.get("tril_perms_lin")
    if perms is not None:
        counted_from_1 = lin is not None and np.size(perms) and np.min(perms) == 1  # as models of 2018
        perms = check_perms(np.asarray(perms) - bool(counted_from_1))
    if lin is not None:
        lin = np.ravel(lin)
        found = perms_from_lin(lin, n_desc) if perms is None else perms
        if not np.array_equal(lin, tril_perms_lin(found)):
            raise DataError(
                "tril_perms_lin does not hold the permutations of pairs that perms leads to: one is damaged."
            )
        perms = found
    assert perms is not None  # see `missing_keys`
    model["perms"], model["tril_perms_lin"] = perms, tril_perms_lin(perms) if lin is None else lin


def is_validated(model: Mapping[str, Any]) -> bool:
    """Return whether the expected errors of a model are known."""
    return bool(np.isfinite(model.get("f_err_mae", np.nan)) and np.isfinite(model.get("f_err_rmse", np.nan)))


def new_model(
    task: Mapping[str, Any],
    solver: str,
    R_desc: Array,
    R_d_desc: Array,
    tril_perms_lin: IntArray,
    std: float,
    alphas_F: Array,
    alphas_E: Array | None = None,
) -> Model:
    """Return the model of a task and its coefficients; see `fastgdml.train.GDMLTrain.create_model`."""
    model: dict[str, Any] = {
        "type": "m",
        "schema": SCHEMA,
        "code_version": __version__,
        "dataset_name": task["dataset_name"],
        "dataset_theory": task["dataset_theory"],
        "solver_name": solver,
        "z": task["z"],
        "idxs_train": task["idxs_train"],
        "md5_train": task["md5_train"],
        "idxs_valid": task["idxs_valid"],
        "md5_valid": task["md5_valid"],
        "n_test": 0,
        "md5_test": b"",
        "f_err_mae": np.nan,
        "f_err_rmse": np.nan,
        "R_desc": R_desc.T,
        "R_d_desc_alpha": jacobian_dot(R_d_desc, alphas_F.reshape(len(R_desc), -1)),
        "c": 0.0,
        "std": std,
        "sig": task["sig"],
        "lam": task["lam"],
        "alphas_F": alphas_F,
        "perms": task["perms"],
        "tril_perms_lin": tril_perms_lin,
        "use_E": task["use_E"],
    }
    if task["use_E"]:
        model["e_err_mae"] = model["e_err_rmse"] = np.nan
        if alphas_E is not None:
            model["alphas_E"] = alphas_E
    for key in ("lattice", "r_unit", "e_unit", "seed", "weights", "desc_weights", "weights_gain"):
        if key in task:
            model[key] = task[key]
    if "lattice" in task:
        model["image_rule"] = image_rule_of(task)
    return cast(Model, model)
