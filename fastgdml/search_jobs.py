"""One task of a search as a job: trained and validated, here or wherever an executor takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .dataset import Dataset, take_points
from .errors import UsageError
from .evaluate import measure_errors, validated, with_scale
from .model import Model, save_model
from .predict import GDMLPredict
from .progress import Callback
from .properties import Outcome, Properties
from .search_events import CheckpointSaved, Event, OnEvent, Progress, nobody, progress_of
from .selection import require_comparison
from .solvers.choice import STOPS_EARLY, SolverOptions
from .task import Task
from .train import GDMLTrain
from .types import IntArray
from .units import Units, conversion


@dataclass(frozen=True)
class Trainer:
    """How the tasks of a search are trained and their models validated. It can be sent to other processes.

    Attributes
    ----------
    max_memory, max_processes, backend
        See `GDMLTrain`.
    solver, tol, max_iter
        See `GDMLTrain.train`.
    early_stop : bool
        Whether conjugate gradients stop when the force error on the validation points no longer falls.
    n_std : int
        Samples for standard deviations; see `GDMLTrain.train`. They are scaled to the errors on the validation points.
    std_groups : 'auto', int, tuple of int, optional
        As of `GDMLTrain.train`; or the group of each geometry of the dataset that training points are drawn from.
    by : {'validation', 'loo'}
        What the models of a search are compared by: the root mean square error of forces on the validation points, or
        the mean absolute error of forces left out of training, which needs `n_std`.

    Raises
    ------
    UsageError
        If an option of the solver is wrong, options exclude each other, or models are to be compared by errors that
        they do not have.
    """

    max_memory: float | None = None
    max_processes: int | None = None
    backend: str = "cpu"
    solver: str = "auto"
    tol: float = 1e-4
    max_iter: int | None = None
    early_stop: bool = False
    n_std: int = 0
    std_groups: str | int | tuple[int, ...] | None = None
    by: str = "validation"

    def __post_init__(self) -> None:
        SolverOptions(self.solver, self.tol, self.max_iter, n_std=self.n_std)  # says what is wrong with them
        if self.solver == "cg" and self.n_std and self.early_stop:
            raise UsageError(STOPS_EARLY)
        require_comparison(self.by)
        if self.by == "loo" and not self.n_std:
            raise UsageError("Leave-one-out errors (by='loo', --by loo) need samples: n_std=16 (--std 16).")

    @property
    def needs_validation(self) -> bool:
        """Whether training needs the validation points."""
        return self.early_stop or self.n_std > 0

    def start(self) -> GDMLTrain:
        """Return what trains; the same one for all tasks of a search says what is wrong with their data once."""
        return GDMLTrain(self.max_memory, self.max_processes, backend=self.backend)

    def train(
        self,
        task: Task,
        points: Dataset | None,
        callback: Callback | None = None,
        save: Callable[[Model], None] | None = None,
        gdml_train: GDMLTrain | None = None,
        near: Sequence[Mapping[str, Any]] = (),
    ) -> Model:
        """Train a task; `points` are its validation points, which early stop and standard deviations need.

        `near` are models of the same points with other length scales, which conjugate gradients begin with.
        """
        held_out = None
        if self.early_stop and points is not None:
            factors = conversion(Units.of(points), Units.of(task), "validation dataset", "task")
            taken = take_points(points, np.arange(len(points["R"])), factors)
            held_out = (taken.R, taken.F, taken.lattice)
        model = (gdml_train or self.start()).train(
            task,
            save_progr_callback=save,
            callback=callback,
            solver=self.solver,
            tol=self.tol,
            max_iter=self.max_iter,
            held_out=held_out,
            n_std=self.n_std,
            std_groups=self.groups_of(task) if self.n_std else None,
            near=near,
        )
        if self.n_std and points is not None:
            predictor = GDMLPredict(model, max_processes=self.max_processes, backend=self.backend)
            if predictor.has_std:  # not of an iteration that did not converge
                model = with_scale(model, predictor, points, callback)
        return model

    def groups_of(self, task: Task) -> str | int | IntArray | None:
        """Return the groups of the training points of a task, for standard deviations.

        Raises
        ------
        UsageError
            If there are too few numbers for the dataset of the task.
        """
        if not isinstance(self.std_groups, tuple):
            return self.std_groups
        idxs = Properties.of(task).idxs_train
        if len(self.std_groups) <= idxs.max():
            raise UsageError(
                f"std_groups has {len(self.std_groups):,} numbers, one for each geometry of the dataset that training "
                f"points are drawn from; geometry {idxs.max():,} is one of these."
            )
        return np.array(self.std_groups, dtype=np.int64)[idxs]

    def validate(self, model: Model, points: Dataset, callback: Callback | None = None) -> Model:
        """Return a model with its errors on `points`, its validation points, as the errors to expect."""
        predictor = GDMLPredict(model, max_processes=self.max_processes, backend=self.backend)
        use_E, all_of_them = Properties.of(model).use_E, np.arange(len(points["R"]))
        return validated(model, measure_errors(predictor, points, all_of_them, use_E, "Validation", callback))


class Future(Protocol):
    """What an executor returns, as `concurrent.futures` and Dask have it."""

    def result(self) -> Any:
        """Wait, and return what the call returned, or raise what it raised."""

    def cancel(self) -> object:
        """Drop the call if it is not running."""


class Executor(Protocol):
    """Where trainings run: that of `concurrent.futures`, a Dask client, or what else has `submit`."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future:
        """Call a function somewhere, some time."""


def checkpoint_saver(path: Path, on_event: OnEvent = nobody) -> Callable[[Model], None]:
    """Return a function that saves unconverged models in a file and tells of it."""

    def save(model: Model) -> None:
        save_model(path, model)
        on_event(CheckpointSaved(path, Outcome.of(model).n_steps or 0))

    return save


def train_and_validate(
    trainer: Trainer, task: Task, points: Dataset | None, validate: bool
) -> tuple[Model, list[Event]]:
    """Train a task and validate its model wherever it is called; return what was finished on the way as well."""
    events: list[Event] = []

    def note(event: Event) -> None:
        if not isinstance(event, Progress) or event.current >= event.total:
            events.append(event)

    model = trainer.train(task, points, progress_of(note))
    if validate:
        assert points is not None
        model = trainer.validate(model, points, progress_of(note))
    return model, events
