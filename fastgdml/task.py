"""Training tasks: what to train on and with which parameters.

A task is a dict with sgdml's keys, which `Task` lists; a task file is an npz archive of the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import numpy as np

from .cell import Cell
from .descriptor import desc_weights_of, pair_permutation
from .entries import TASK, check_entries
from .errors import DataError, FileFormatError
from .npz import load_npz, save_npz, text, type_of
from .types import Array, Flag, IntArray, Integers, Number, Text


class _Needed(TypedDict):
    """What every task has. M training points of N atoms, P permutations."""

    z: Integers  # (N,) atomic numbers
    R_train: Array  # (M, N, 3) training geometries
    F_train: Array  # (M, N, 3) their forces, the negative gradient of the energy
    idxs_train: Integers  # (M,) training points, by their numbers in the dataset
    md5_train: Text  # fingerprint of that dataset
    idxs_valid: Integers  # validation points
    md5_valid: Text  # fingerprint of their dataset
    sig: Number  # length scale sigma of the kernel
    lam: Number  # regularisation lambda
    use_E: Flag  # whether energies are fitted
    use_E_cstr: Flag  # whether they are constrained point by point, instead of fitting their common offset
    use_sym: Flag  # whether permutations are used (sGDML), or the identity alone (GDML)
    perms: Integers  # (P, N) permutations of atoms


class Task(_Needed, total=False):
    """Keys of a task. Others are kept as they are."""

    E_train: Array  # (M,) energies of the training points; needed with use_E
    lattice: Array  # (3, 3) or (M, 3, 3) lattice vectors as columns, for all training points or for each
    image_rule: Text  # "minimum" or "rounding": which image of a neighbour counts; see `fastgdml.cell`
    r_unit: Text  # unit of length
    e_unit: Text  # unit of energy
    type: Text  # "t"
    code_version: Text  # version of the program that made the task
    dataset_name: Text  # name of the dataset
    dataset_theory: Text  # its level of theory
    seed: Number  # of the draw of points
    weights: Text  # "orbits" or "types": weights of which pairs were to be learned
    desc_weights: Array  # (D,) those that were learned, absent where they did not help; see `fastgdml.weights`
    weights_gain: Array  # (2,) shares by which they lower the errors of forces and energies on validation points
    sig_search: Text  # "auto": the search of this task finds its length scales itself
    tried_training: Flag  # whether a search began to train it
    alphas0_F: Array  # (3 N M,) coefficients that a resumed training starts from
    alphas0_E: Array  # (M,) those of energy constraints
    solver_iters: Number  # steps that led to them
    inducing_pts_idxs: Integers  # columns of the preconditioner of the earlier run, in sgdml's order of rows


_REQUIRED = tuple(_Needed.__annotations__)


@dataclass(frozen=True)
class TaskArrays:
    """A task as training needs it: arrays and numbers of one type each, read from the entries once.

    Attributes
    ----------
    R, F : ndarray, shape (M, N, 3)
        Training geometries and forces.
    E : ndarray, shape (M,), or None
        Energies, if they are fitted.
    perms : ndarray of int, shape (P, N)
        Permutations of atoms.
    idxs : ndarray of int64, shape (M,)
        Numbers of the training points in their dataset.
    sig, lam : float
        Length scale and regularisation.
    z : ndarray of int, shape (N,)
        Atomic numbers.
    r_unit : str or None
        Unit of length, where it is recorded.
    constrain_E : bool
        Whether energies are constrained point by point.
    cell : Cell or None
        The cell; None for a molecule.
    start : tuple or None
        alphas_F, alphas_E and number of steps of an earlier run.
    columns : ndarray of int, or None
        Columns of the preconditioner of an earlier run, in sgdml's order.
    weights : ndarray, shape (D,), or None
        Weights of pairs; None: 1.
    """

    R: Array
    F: Array
    E: Array | None
    perms: Integers
    idxs: IntArray
    sig: float
    lam: float
    z: Integers
    r_unit: str | None
    constrain_E: bool
    cell: Cell | None
    start: tuple[Array, Array | None, int] | None
    columns: Integers | None
    weights: Array | None = None

    @property
    def fits_constant(self) -> bool:
        """Whether energies decide the integration constant alone, after the forces were fitted."""
        return self.E is not None and not self.constrain_E

    @classmethod
    def of(cls, task: Mapping[str, Any], source: str = "task") -> TaskArrays:
        """Take the arrays of a task as `GDMLTrain.create_task` makes it, or a file holds it.

        Raises
        ------
        DataError
            If arrays are missing or contradict each other; see `check_task`.
        """
        task = check_task(task, source)
        start, columns = None, None
        if "alphas0_F" in task:
            start = (task["alphas0_F"], task.get("alphas0_E"), int(task.get("solver_iters", 0)))
            columns = task.get("inducing_pts_idxs")
        return cls(
            R=np.asarray(task["R_train"], dtype=np.float64),
            F=np.asarray(task["F_train"], dtype=np.float64),
            E=np.asarray(task["E_train"], dtype=np.float64).ravel() if task["use_E"] else None,
            perms=np.atleast_2d(task["perms"]),
            idxs=np.asarray(task["idxs_train"], dtype=np.int64).ravel(),
            sig=float(task["sig"]),
            lam=float(task["lam"]),
            z=np.asarray(task["z"]),
            r_unit=text(task["r_unit"]) if "r_unit" in task else None,
            constrain_E=bool(task["use_E_cstr"]),
            cell=Cell.of(task),
            start=start,
            columns=columns,
            weights=desc_weights_of(task, len(np.asarray(task["z"]))),
        )


def load_task(path: str | os.PathLike[str]) -> Task:
    """Load a task file written by fastgdml or sgdml.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged or no task.
    """
    entries = load_npz(path, needed={*TASK, "type"})
    require_type(entries, "t", "task", path)
    return cast(Task, check_task(entries, str(path)))


def save_task(path: str | os.PathLike[str], task: Mapping[str, Any]) -> None:
    """Write a task file, atomically and without pickles. Only a task is replaced."""
    save_npz(path, task)


def part_of_task(task: Task, points: IntArray) -> Task:
    """Return a task with some of the training points, by their numbers among them."""
    part: dict[str, Any] = dict(task)
    for key in ("R_train", "F_train", "idxs_train"):
        part[key] = np.asarray(part[key])[points]
    if "E_train" in part:
        part["E_train"] = np.ravel(part["E_train"])[points]
    if np.ndim(part.get("lattice", 0)) == 3:
        part["lattice"] = np.asarray(part["lattice"])[points]
    return cast(Task, part)


def require_type(entries: Mapping[str, Any], letter: str, what: str, path: str | os.PathLike[str]) -> None:
    """Raise FileFormatError unless the entries of a file say that it is of type `letter` ('d', 't' or 'm')."""
    found = type_of(entries)
    if found != letter:
        names = {"d": "a dataset", "t": "a task", "m": "a model"}
        raise FileFormatError(f"{path} is {names.get(found, 'of no known type')}; a {what} is needed.")


def check_task(task: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the entries of a task, each of its type; raise DataError unless all are there and fit each other."""
    missing = [key for key in _REQUIRED if task.get(key) is None]
    if missing:
        raise DataError(f"{source}: the task lacks {', '.join(missing)}.")
    checked = {"dataset_name": np.array("unknown"), "dataset_theory": np.array("unknown"), **task}
    check_entries(checked, TASK, source)
    n_train, n_atoms = np.shape(checked["R_train"])[:2]
    if n_train == 0 or n_atoms < 2:
        raise DataError(f"{source}: {n_train} training points of {n_atoms} atoms; one of two atoms is needed.")
    if checked["use_E_cstr"] and not checked["use_E"]:
        raise DataError(f"{source}: use_E_cstr needs energies, but use_E is false.")
    if checked["use_E"] and checked.get("E_train") is None:
        raise DataError(f"{source}: use_E needs E_train, one energy for each of {n_train} training points.")
    try:
        _check_weights(checked)
        cell = Cell.of(checked)
        if cell is not None:
            cell.require_for(n_train)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    _check_columns(checked, n_train * (3 * n_atoms + bool(checked["use_E_cstr"])), source)
    return checked


def _check_weights(task: Mapping[str, Any]) -> None:
    """Raise DataError unless the weights of a task, if any, are positive and the same for the images of a pair."""
    weights = desc_weights_of(task, len(task["z"]))
    if weights is None:
        return
    for perm in np.atleast_2d(task["perms"]):
        images = weights[pair_permutation(perm)]
        if np.abs(images - weights).max() > 1e-12 * weights.max():
            raise DataError(f"desc_weights are not the same for pairs that the permutation {perm.tolist()} exchanges.")


def _check_columns(task: Mapping[str, Any], n_rows: int, source: str) -> None:
    """Raise DataError unless the columns of an earlier run, if any, are in the range of the kernel matrix."""
    columns = task.get("inducing_pts_idxs")
    if columns is not None and (np.size(columns) == 0 or np.max(columns) >= n_rows):
        raise DataError(f"{source}: inducing_pts_idxs must hold numbers of columns, 0 to {n_rows - 1}.")
