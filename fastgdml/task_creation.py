"""Making tasks: points are drawn, symmetries found, parameters recorded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ._version import __version__
from .cell import Cell, check_image_rule
from .dataset import check_dataset, check_same_system, dataset_md5, lattice_of, same_fingerprint, text
from .errors import UsageError
from .group import check_perms
from .permutations import MAX_GROUP_SIZE, find_perms
from .progress import Callback, Step
from .sampling import draw_stratified, draw_uniform, generator
from .task import Task
from .types import Array, IntArray

_log = logging.getLogger(__name__)

# Geometries used for the symmetry search, as in sgdml.
_MAX_SYMMETRY_POINTS = 1000

# What a task that goes on with the training of a model takes from it.
_OF_MODEL = (
    "dataset_name",
    "dataset_theory",
    "z",
    "idxs_train",
    "md5_train",
    "idxs_valid",
    "md5_valid",
    "sig",
    "lam",
    "use_E",
    "perms",
    "lattice",
    "image_rule",
    "r_unit",
    "e_unit",
    "seed",
    "solver_iters",
    "inducing_pts_idxs",
)


@dataclass(frozen=True)
class TaskOptions:
    """Parameters of a task; `GDMLTrain.create_task` explains them.

    Raises
    ------
    UsageError
        If they contradict each other.
    """

    sig: float
    lam: float = 1e-10
    perms: npt.ArrayLike | None = None
    use_sym: bool = True
    use_E: bool = True
    use_E_cstr: bool = False
    seed: int | None = None
    max_group_size: int = MAX_GROUP_SIZE
    image_rule: str = "minimum"

    def __post_init__(self) -> None:
        if self.use_E_cstr and not self.use_E:
            raise UsageError("Energy constraints (use_E_cstr=True) need energies: they exclude use_E=False.")
        if not (self.sig > 0 and self.lam >= 0):
            raise UsageError(f"sigma must be positive and lambda not negative; got {self.sig} and {self.lam}.")
        check_image_rule(self.image_rule)


def create_task(
    train_dataset: Mapping[str, Any],
    n_train: int,
    valid_dataset: Mapping[str, Any],
    n_valid: int,
    options: TaskOptions,
    n_threads: int,
    callback: Callback | None = None,
) -> Task:
    """Create a task; see `GDMLTrain.create_task`."""
    train_dataset, valid_dataset = dict(train_dataset), dict(valid_dataset)
    _check_datasets(train_dataset, valid_dataset, options)
    step = Step(callback, "Hashing dataset(s)")
    md5_train, md5_valid = dataset_md5(train_dataset), dataset_md5(valid_dataset)
    step.done()

    step = Step(callback, "Sampling training and validation subsets")
    rng = generator(options.seed)
    idxs_train = _draw(train_dataset, n_train, rng, None)
    idxs_valid = _draw(valid_dataset, n_valid, rng, idxs_train if md5_train == md5_valid else None)
    step.done()

    task: dict[str, Any] = {
        "type": "t",
        "code_version": __version__,
        "dataset_name": text(train_dataset["name"]),
        "dataset_theory": text(train_dataset["theory"]),
        "z": train_dataset["z"],
        "R_train": np.asarray(train_dataset["R"][idxs_train], dtype=np.float64),
        "F_train": np.asarray(train_dataset["F"][idxs_train], dtype=np.float64),
        "idxs_train": idxs_train,
        "md5_train": md5_train,
        "idxs_valid": idxs_valid,
        "md5_valid": md5_valid,
        "sig": options.sig,
        "lam": options.lam,
        "use_E": options.use_E,
        "use_E_cstr": options.use_E_cstr,
        "use_sym": options.use_sym,
    }
    if options.seed is not None:
        task["seed"] = options.seed
    if options.use_E:
        task["E_train"] = np.asarray(train_dataset["E"][idxs_train], dtype=np.float64)
    task |= {key: train_dataset[key] for key in ("r_unit", "e_unit") if key in train_dataset}
    lattice = lattice_of(train_dataset, idxs_train)
    if lattice is not None:
        task["lattice"], task["image_rule"] = lattice, options.image_rule
    perms = _known_perms(train_dataset, options)
    if perms is None:
        perms = _find_perms(task["R_train"], task["z"], Cell.of(task), options, rng, n_threads, callback)
    return cast(Task, {**task, "perms": perms})


def _check_datasets(train_dataset: dict[str, Any], valid_dataset: dict[str, Any], options: TaskOptions) -> None:
    """Raise UsageError or DataError unless a task can be made of two datasets."""
    if options.use_E and "E" not in train_dataset:
        raise UsageError(
            "The dataset has no energies (key 'E'). Train on forces alone with use_E=False (--no_E), or add them."
        )
    check_dataset(train_dataset, "training dataset")
    if valid_dataset.keys() != train_dataset.keys() or valid_dataset["R"] is not train_dataset["R"]:
        check_dataset(valid_dataset, "validation dataset")
    check_same_system(train_dataset, valid_dataset, "training dataset", "validation dataset")


def _draw(dataset: Mapping[str, Any], n: int, rng: np.random.RandomState, excl_idxs: IntArray | None) -> IntArray:
    if "E" in dataset:
        return draw_stratified(dataset["E"], n, rng, excl_idxs)
    return draw_uniform(len(dataset["F"]), n, rng, excl_idxs)


def _known_perms(dataset: Mapping[str, Any], options: TaskOptions) -> IntArray | None:
    """Return the permutations that are given, or None if a search is to find them."""
    n_atoms = len(dataset["z"])
    if not options.use_sym:
        return np.arange(n_atoms)[None, :]
    perms = options.perms
    if perms is None and "perms" in dataset:
        perms = dataset["perms"]
        _log.info("Using %d permutations included in the dataset.", len(np.atleast_2d(perms)))
    if perms is None:
        return None
    perms = check_perms(perms)
    if perms.shape[1] != n_atoms:
        raise UsageError(f"The permutations are for {perms.shape[1]} atoms, the dataset has {n_atoms}.")
    return perms


def _find_perms(
    R: Array,
    z: npt.NDArray[np.integer],
    cell: Cell | None,
    options: TaskOptions,
    rng: np.random.RandomState,
    n_threads: int,
    callback: Callback | None,
) -> IntArray:
    """Search for the symmetries of the training points."""
    if len(R) > _MAX_SYMMETRY_POINTS:
        drawn = rng.choice(len(R), _MAX_SYMMETRY_POINTS, replace=False)
        R, cell = R[drawn], cell and cell.part(drawn)
        _log.info("The symmetry search is restricted to %d random training points.", _MAX_SYMMETRY_POINTS)
    step = Step(callback, "Finding permutational symmetries")
    found = find_perms(R, z, cell, options.max_group_size, n_threads=n_threads, progress=step)
    step.done(f"found {len(found)} symmetries")
    return found


def task_of_model(model: Mapping[str, Any], dataset: Mapping[str, Any]) -> Task:
    """Make a task that goes on with the training of a model; see `GDMLTrain.create_task_from_model`."""
    if text(model["solver_name"]) != "cg":
        raise UsageError(
            f"The model was trained with the solver '{text(model['solver_name'])}'; only models of the iterative "
            "solver ('cg') can be trained on."
        )
    if "alphas_F" not in model:
        raise UsageError("The model does not hold its coefficients (alphas_F), so that it cannot be trained on.")
    dataset = dict(dataset)
    check_dataset(dataset, "dataset")
    if not same_fingerprint(dataset_md5(dataset), model["md5_train"]):
        raise UsageError("The model was trained on another dataset: its fingerprint is not that of the one given.")
    idxs = np.asarray(model["idxs_train"])
    task: dict[str, Any] = {
        "type": "t",
        "code_version": __version__,
        "R_train": np.asarray(dataset["R"][idxs], dtype=np.float64),
        "F_train": np.asarray(dataset["F"][idxs], dtype=np.float64),
        "use_E_cstr": "alphas_E" in model,
        "use_sym": len(np.atleast_2d(model["perms"])) > 1,
        "alphas0_F": model["alphas_F"],
    }
    task |= {key: model[key] for key in _OF_MODEL if key in model}
    if task["use_E"]:
        task["E_train"] = np.asarray(dataset["E"][idxs], dtype=np.float64)
    if "alphas_E" in model:
        task["alphas0_E"] = model["alphas_E"]
    return cast(Task, task)
