"""A model that grows by a training point at a time."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .._version import __version__
from ..cell import Cell
from ..descriptor import from_R, tril_perms_lin
from ..errors import SolverError
from ..group import GroupTables
from ..kernel import Coordinates, assemble_rows, assemble_selected
from ..labels import Labels
from ..model import Model, new_model
from ..permutations import find_perms
from ..predict import GDMLPredict
from ..solvers.bordered import BorderedFactor
from ..solvers.cholesky import ClosedForm, solve_closed_form
from ..solvers.equations import TrainingEquations
from ..solvers.jackknife import groups_of, jackknife
from ..solvers.processor import processor
from ..task import Task, TaskArrays
from ..training_set import TrainingSet
from ..types import Array, IntArray
from ..uncertainty import sample_entries

_log = logging.getLogger(__name__)

# Length scales are steps of half an octave: 10, 14, 20, 28, 40.
_FIRST_SIGMA = 10.0
_SIGMA_STEPS = range(-4, 13)


@dataclass(frozen=True)
class System:
    """What is learned. N atoms.

    Attributes
    ----------
    z : ndarray of int, shape (N,)
        Atomic numbers.
    lattice : ndarray, shape (3, 3), or None
        Lattice vectors as columns; None for a molecule.
    e_unit, r_unit : str
        Units of the labels.
    name, theory : str
        To record.
    """

    z: NDArray[np.integer[Any]]
    lattice: Array | None
    e_unit: str
    r_unit: str
    name: str
    theory: str

    @cached_property
    def cell(self) -> Cell | None:
        """The cell."""
        return None if self.lattice is None else Cell(self.lattice)


@dataclass(frozen=True)
class Labelled:
    """Labelled geometries.

    Attributes
    ----------
    R, F : ndarray, shape (M, N, 3)
        Geometries and forces.
    E : ndarray, shape (M,)
        Energies.
    """

    R: Array
    F: Array
    E: Array

    def __len__(self) -> int:
        return len(self.R)

    def plus(self, other: Labelled) -> Labelled:
        """Return these points and others after them."""
        return Labelled(*(np.concatenate([getattr(self, key), getattr(other, key)]) for key in ("R", "F", "E")))

    def __getitem__(self, which: slice | IntArray) -> Labelled:
        return Labelled(self.R[which], self.F[which], self.E[which])


@dataclass
class GrowingModel:
    """A model in closed form whose factor grows with the training points.

    Attributes
    ----------
    system : System
        What is learned.
    perms : ndarray of int, shape (P, N)
        Permutations; `set_kernel` changes them.
    sig : float
        Length scale; `set_kernel` changes it.
    lam : float
        Regularisation.
    n_std : int
        Samples for standard deviations.
    n_threads : int
        Number of threads.
    """

    system: System
    perms: IntArray
    sig: float = _FIRST_SIGMA
    lam: float = 1e-10
    n_std: int = 16
    n_threads: int = 1
    points: Labelled | None = field(init=False, default=None)
    _factor: BorderedFactor = field(init=False)
    _tables: GroupTables = field(init=False)

    def __post_init__(self) -> None:
        self._factor = BorderedFactor(self.n_threads)
        self._tables = GroupTables.from_perms(self.perms)

    def __len__(self) -> int:
        return self._factor.n_points

    def add(self, new: Labelled) -> int:
        """Add training points, each by a border of the factor.

        Returns
        -------
        int
            How many were added. Those with which the matrix is not positive definite are left out: the model knows them
            already, to the last digit.
        """
        points = new if self.points is None else self.points.plus(new)
        equations = self._equations(self._task(points))
        training, reduction = equations.training, equations.reduction
        before = list(range(len(self)))
        for i in range(len(before), len(points)):
            kept = reduction.kept[i]
            border = np.empty((len(kept), 0))
            if before:
                columns = Coordinates.from_lists([reduction.kept[j] for j in before])
                border = -assemble_rows(training, range(i, i + 1), np.array(before), columns, self.n_threads)[kept]
            own = assemble_selected(training.part(slice(i, i + 1)), Coordinates.from_lists([kept]), self.n_threads)
            if self._factor.append(border, self.lam * reduction.gram_inverse[i] - own):
                before.append(i)
        added = len(before) - (0 if self.points is None else len(self.points))
        self.points = points[np.array(before)]
        return added

    def set_kernel(self, perms: IntArray, sig: float) -> None:
        """Change permutations and length scale: the points are added anew, one after the other."""
        if np.array_equal(perms, self.perms) and sig == self.sig:
            return
        points, self.points = self.points, None
        self.perms, self.sig, self._factor = perms, sig, BorderedFactor(self.n_threads)
        self._tables = GroupTables.from_perms(perms)
        if points is not None:
            self.add(points)

    def model(self, left_out: bool = True) -> Model:
        """Return the model of the points so far.

        Parameters
        ----------
        left_out : bool
            With samples for standard deviations and leave-one-out residuals.

        Raises
        ------
        SolverError
            If there are fewer than two points.
        """
        if len(self) < 2 or self.points is None:
            raise SolverError("A model that grows needs two training points.")
        task = self._task(self.points)
        equations = self._equations(task)
        z = self._factor.solve(equations.reduction.reduce(equations.y))
        found = ClosedForm(equations, self.lam, equations.reduction, self._factor, z, z, None)
        alphas_F, _ = found.coefficients(z)
        x, g = equations.training.x, equations.training.g
        std = Labels.of(TaskArrays.of(task)).std
        model = new_model(task, "analytic", x, g, tril_perms_lin(self.perms), std, alphas_F)
        predictor = GDMLPredict(model, max_processes=self.n_threads)
        predictor.set_R_desc(x)
        predictor.set_R_d_desc(g)
        E, _ = predictor.predict()
        model["c"] = float(np.mean(self.points.E - E))
        if not left_out:
            return model
        samples = jackknife(found, self.n_std, groups_of(None, len(self)))
        return cast(Model, model | sample_entries(model, samples, x, g, self.n_threads))

    def found_perms(self) -> IntArray:
        """Return the permutations found among the points, if they are more than those so far; else these."""
        assert self.points is not None
        system = self.system
        found = find_perms(self.points.R, system.z, system.cell, n_threads=self.n_threads)
        return found if len(found) > len(self.perms) else self.perms

    def best_sigma(self) -> float:
        """Return the length scale whose leave-one-out errors are smallest, as found downhill from that so far."""
        number = int(np.argmin([abs(np.log(self.sig / _sigma(k))) for k in _SIGMA_STEPS]))
        errors: dict[int, float] = {}

        def error(k: int) -> float:
            if k not in errors:
                errors[k] = self._error(_sigma(_SIGMA_STEPS[k])) if 0 <= k < len(_SIGMA_STEPS) else np.inf
            return errors[k]

        while True:
            best = min((number, number - 1, number + 1), key=error)
            if best == number:
                return _sigma(_SIGMA_STEPS[number])
            number = best

    def _error(self, sig: float) -> float:
        """Return the mean absolute leave-one-out error of forces with a length scale, in units of their deviation."""
        assert self.points is not None
        equations = self._equations(self._task(self.points, sig))
        try:
            found = solve_closed_form(equations, processor(self.n_threads))
            return float(np.abs(jackknife(found, 1, groups_of(None, len(self.points))).residuals).mean())
        except SolverError:
            return np.inf

    def _equations(self, task: Task) -> TrainingEquations:
        arrays = TaskArrays.of(task)
        x, g = from_R(arrays.R, arrays.cell, self.n_threads)
        training = TrainingSet(x, g, self._tables, arrays.sig)
        return TrainingEquations(arrays.R, training, arrays.lam, Labels.of(arrays).y, None, arrays.cell is not None)

    def _task(self, points: Labelled, sig: float | None = None) -> Task:
        return task_of(self.system, points, self.perms, self.sig if sig is None else sig, self.lam)


def task_of(system: System, points: Labelled, perms: IntArray, sig: float, lam: float = 1e-10) -> Task:
    """Return the task to train a model of all points with these parameters."""
    task: dict[str, Any] = {
        "type": "t",
        "code_version": __version__,
        "dataset_name": system.name,
        "dataset_theory": system.theory,
        "z": system.z,
        "R_train": points.R,
        "F_train": points.F,
        "E_train": points.E,
        "idxs_train": np.arange(len(points)),
        "md5_train": b"",
        "idxs_valid": np.empty(0, dtype=np.int64),
        "md5_valid": b"",
        "sig": sig,
        "lam": lam,
        "use_E": True,
        "use_E_cstr": False,
        "use_sym": len(perms) > 1,
        "perms": perms,
        "e_unit": system.e_unit,
        "r_unit": system.r_unit,
    }
    if system.lattice is not None:
        task["lattice"] = system.lattice
    return cast(Task, task)


def _sigma(k: int) -> float:
    return float(round(_FIRST_SIGMA * 2 ** (k / 2)))
