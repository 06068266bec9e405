"""Making tasks: points are drawn, symmetries found, parameters recorded."""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ._version import __version__
from .cell import Cell, check_image_rule
from .dataset import Dataset, check_dataset, check_same_system, dataset_md5, load_dataset, take_points
from .descriptor import from_R
from .diagnostics import Finding
from .entries import HUGE
from .errors import DataError, UsageError
from .frames import check_training_geometries
from .npz import text
from .overlap import KnownGeometries, require_drawn_from
from .perms import check_group, check_perms
from .permutations import MAX_GROUP_SIZE, find_perms
from .progress import Callback, Step
from .properties import Outcome
from .sampling import draw_points, generator
from .task import Task
from .types import Array, IntArray
from .units import Units, conversion

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
    "weights",
    "desc_weights",
    "weights_gain",
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
        sig, lam = self.sig, self.lam
        if not (_is_number(sig) and _is_number(lam) and 0 < sig < HUGE and 0 <= lam < HUGE):
            raise UsageError(
                f"sigma must be a positive number and lambda one that is not negative; got {sig!r} and {lam!r}."
            )
        check_image_rule(self.image_rule)

    def entries(self) -> dict[str, Any]:
        """Return them as the entries of a task."""
        keys = ("sig", "lam", "use_E", "use_E_cstr", "use_sym")
        entries = {key: getattr(self, key) for key in keys}
        return entries if self.seed is None else {**entries, "seed": self.seed}


def create_task(
    train_dataset: Mapping[str, Any] | str | os.PathLike[str],
    n_train: int,
    valid_dataset: Mapping[str, Any] | str | os.PathLike[str],
    n_valid: int,
    options: TaskOptions,
    n_threads: int,
    callback: Callback | None = None,
    report: Callable[[list[Finding]], object] = list,
) -> Task:
    """Create a task; see `GDMLTrain.create_task`. `report` gets what is wrong with the geometries that are drawn."""
    n_train, n_valid = _count("n_train", n_train, 1), _count("n_valid", n_valid, 0)
    training, validation = _opened_both(train_dataset, valid_dataset, options)
    step = Step(callback, "Hashing dataset(s)")
    md5_train = dataset_md5(training)
    md5_valid = md5_train if validation is training else dataset_md5(validation)
    step.done()

    step = Step(callback, "Sampling training and validation subsets")
    rng = generator(options.seed)
    idxs_train = draw_points(training, n_train, rng, None)
    drawn = take_points(training, idxs_train)
    cell = None if drawn.lattice is None else Cell(drawn.lattice, options.image_rule)
    R_desc = from_R(drawn.R, cell, n_threads)[0]
    excluded = idxs_train
    if md5_train != md5_valid:
        known = KnownGeometries(R_desc, options.image_rule, Units.of(training))
        excluded = known.find_in(validation)[0]
        if len(excluded):
            _log.warning(
                "%s geometries of the validation dataset are training points: they are not drawn for validation.",
                f"{len(excluded):,}",
            )
    idxs_valid = draw_points(validation, n_valid, rng, excluded)
    step.done()
    _require_forces("training", drawn.F)
    _require_forces("validation", validation["F"][idxs_valid])

    entries: dict[str, Any] = {
        "type": "t",
        "code_version": __version__,
        "dataset_name": text(training["name"]),
        "dataset_theory": text(training["theory"]),
        "z": training["z"],
        "R_train": drawn.R,
        "F_train": drawn.F,
        "idxs_train": idxs_train,
        "md5_train": md5_train,
        "idxs_valid": idxs_valid,
        "md5_valid": md5_valid,
        **options.entries(),
    }
    if options.use_E:
        entries["E_train"] = drawn.E
    entries |= {key: training[key] for key in ("r_unit", "e_unit") if key in training}
    if cell is not None:
        entries["lattice"], entries["image_rule"] = drawn.lattice, options.image_rule
    report(check_training_geometries(R_desc, entries["z"], _r_unit(entries), idxs_train))
    perms = _known_perms(training, options)
    if perms is None:
        perms = _find_perms(drawn.R, training["z"], cell, options, rng, n_threads, callback)
    return cast(Task, {**entries, "perms": perms})


def _opened_both(
    train_dataset: Mapping[str, Any] | str | os.PathLike[str],
    valid_dataset: Mapping[str, Any] | str | os.PathLike[str],
    options: TaskOptions,
) -> tuple[Dataset, Dataset]:
    """Return training and validation dataset, one object if they are the same; raise unless a task can be made."""
    same = valid_dataset is train_dataset or (
        isinstance(train_dataset, str | os.PathLike) and train_dataset == valid_dataset
    )
    training = _opened(train_dataset, "training dataset")
    validation = training if same else _opened(valid_dataset, "validation dataset")
    if options.use_E and "E" not in training:
        raise UsageError(
            "The dataset has no energies (key 'E'). Train on forces alone with use_E=False (--no_E), or add them."
        )
    check_same_system(training, validation, "training dataset", "validation dataset")
    return training, validation


def _require_forces(what: str, F: npt.NDArray[Any]) -> None:
    if len(F) and not np.any(F):
        raise DataError(
            f"All forces of the {what} points are zero. Are they a placeholder? Models are trained and chosen by "
            "forces."
        )


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
    checked = check_perms(perms)
    if checked.shape[1] != n_atoms:
        raise UsageError(f"The permutations are for {checked.shape[1]} atoms, the dataset has {n_atoms}.")
    return check_group(checked, dataset["z"])


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


def _r_unit(entries: Mapping[str, Any]) -> str | None:
    return text(entries["r_unit"]) if "r_unit" in entries else None


def _opened(dataset: Mapping[str, Any] | str | os.PathLike[str], source: str) -> Dataset:
    """Return a dataset, checked, from a mapping, which is left as it is, or a file."""
    if isinstance(dataset, str | os.PathLike):
        return load_dataset(dataset)
    if not isinstance(dataset, Mapping):
        raise UsageError(f"The {source} must be a mapping with z, R, F, or a file; got {type(dataset).__name__}.")
    checked = {str(key): dataset[key] for key in dataset}
    check_dataset(checked, source)
    for key in ("name", "theory"):
        checked.setdefault(key, np.array("unknown"))
    return cast(Dataset, checked)


def _count(name: str, value: Any, least: int) -> int:
    """Return a number of points as int, or raise UsageError."""
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{name} must be an integer; got {value!r}.") from None
    if number < least:
        raise UsageError(f"{name} must be at least {least}; got {number}.")
    return number


def _is_number(value: Any) -> bool:
    array = np.asarray(value)
    return array.shape == () and array.dtype.kind in "iuf"


def task_of_model(model: Mapping[str, Any], dataset: Mapping[str, Any]) -> Task:
    """Make a task that goes on with the training of a model; see `GDMLTrain.create_task_from_model`."""
    solver = Outcome.of(model).solver
    if solver != "cg":
        raise UsageError(
            f"The model was trained with the solver '{solver}'; only models of the iterative "
            "solver ('cg') can be trained on."
        )
    if "alphas_F" not in model:
        raise UsageError("The model does not hold its coefficients (alphas_F), so that it cannot be trained on.")
    opened = _opened(dataset, "dataset")
    check_same_system(model, opened, "model", "dataset")
    require_drawn_from(model, "train", opened, "the model")
    factors = conversion(Units.of(opened), Units.of(model), "dataset", "model")
    points = take_points(opened, model["idxs_train"], factors)
    task: dict[str, Any] = {
        "type": "t",
        "code_version": __version__,
        "R_train": points.R,
        "F_train": points.F,
        "use_E_cstr": "alphas_E" in model,
        "use_sym": len(np.atleast_2d(model["perms"])) > 1,
        "alphas0_F": model["alphas_F"],
    }
    task |= {key: model[key] for key in _OF_MODEL if key in model}
    if task["use_E"]:
        if points.E is None:
            raise UsageError("The model was trained with energies, but the dataset has none (key 'E').")
        task["E_train"] = points.E
    if "alphas_E" in model:
        task["alphas0_E"] = model["alphas_E"]
    return cast(Task, task)
