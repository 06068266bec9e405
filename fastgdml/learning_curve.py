"""Learning curves: errors of models by the number of training points.

All models of a curve are tested on the same points. Their training points are nested: those of a smaller model are
drawn from those of the next larger one, so that neighbouring sizes differ by what is added, not by another draw.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, cast, get_type_hints

import numpy as np

from .dataset import Dataset, part_of, take_points
from .errors import DataError, UsageError
from .evaluate import Errors, prediction_errors
from .model import Model
from .npz import TEXT, replacing
from .predict import GDMLPredict
from .progress import Callback, Step
from .properties import Properties
from .sampling import draw_points, generator
from .search_jobs import Executor, Future, Trainer
from .task import Task
from .train import GDMLTrain
from .types import IntArray
from .units import Units

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CurvePoint:
    """A model of a learning curve: what it was trained with, and its errors on the test points.

    Attributes
    ----------
    n_train, n_test, n_perms : int
        Number of training points, test points, permutations.
    sig : float
        Length scale.
    f_mae, f_rmse, e_mae, e_rmse : float
        Errors of components of forces and of energies; the latter None without energies.
    seconds : float
        Time of the training.
    e_unit, r_unit : str
        Units, empty where they are unknown.
    """

    n_train: int
    n_test: int
    n_perms: int
    sig: float
    f_mae: float
    f_rmse: float
    e_mae: float | None
    e_rmse: float | None
    seconds: float
    e_unit: str
    r_unit: str


@dataclass(frozen=True)
class CurveOptions:
    """How to make a learning curve.

    Attributes
    ----------
    sigs : sequence of float
        Length scales to choose from, by the force error on the validation points.
    sigma_per_size : bool
        Choose for every size; otherwise once, for the largest.
    n_valid, n_test : int
        Number of validation and test points.
    lam : float
        Regularisation.
    use_sym, use_E : bool
        Whether to use symmetries and energies.
    seed : int
        Seed of the draws.
    solver : {'auto', 'closed', 'cg'}
        Solver.
    """

    sigs: Sequence[float] = (10, 20, 30, 40, 50)
    sigma_per_size: bool = False
    n_valid: int = 200
    n_test: int = 1000
    lam: float = 1e-10
    use_sym: bool = True
    use_E: bool = True
    seed: int = 0
    solver: str = "auto"


def learning_curve(
    dataset: Mapping[str, Any],
    sizes: Sequence[int],
    options: CurveOptions | None = None,
    trainer: GDMLTrain | Trainer | None = None,
    callback: Callback | None = None,
    on_point: Callable[[CurvePoint], object] | None = None,
    executor: Executor | None = None,
) -> list[CurvePoint]:
    """Train models with several numbers of training points and test them all on the same points.

    Parameters
    ----------
    dataset : mapping
        Labelled geometries, as `fastgdml.dataset.load_dataset` returns them.
    sizes : sequence of int
        Numbers of training points.
    options : CurveOptions, optional
        The rest.
    trainer : GDMLTrain or Trainer, optional
        Trains, with its limits of memory and threads; a `Trainer` also has those of an executor.
    callback : callable, optional
        Progress; see `fastgdml.progress.Callback`.
    on_point : callable, optional
        Receives each point of the curve when it is known, the largest size first.
    executor : Executor, optional
        Trains elsewhere, as many models at once as are known to be needed.

    Returns
    -------
    list of CurvePoint
        In ascending order of the number of training points.

    Raises
    ------
    UsageError
        If there are no sizes or length scales, or not enough points in the dataset.
    """
    options = options or CurveOptions()
    job = replace(trainer if isinstance(trainer, Trainer) else Trainer(), solver=options.solver)
    trainer = trainer.start() if isinstance(trainer, Trainer) else trainer or GDMLTrain()
    sizes = sorted(set(sizes))
    if not sizes or sizes[0] < 1:
        raise UsageError("A learning curve needs numbers of training points, all of them positive.")
    if not options.sigs:
        raise UsageError("A learning curve needs a length scale (sigma), or several to choose from.")
    _require_points(dataset, sizes[-1], options)
    rng = generator(options.seed)
    idxs_test = draw_points(dataset, options.n_test, rng)
    template = _template(dataset, sizes[-1], options, trainer, idxs_test, callback)
    work = _Curve(dataset, idxs_test, template, trainer, options, callback)
    points: list[CurvePoint] = []
    drawn = [Properties.of(template).idxs_train]
    for size in reversed(sizes[:-1]):
        drawn.append(drawn[-1][draw_points(_part(dataset, drawn[-1]), size, rng)])
    sigs = list(options.sigs)
    elsewhere = _Elsewhere(work, executor, job)
    try:
        elsewhere.submit(drawn if options.sigma_per_size else drawn[:1], sigs)
        for idxs in drawn:
            point = work.point(idxs, sigs, elsewhere)
            if not options.sigma_per_size and not points:
                sigs = [point.sig]
                elsewhere.submit(drawn[1:], sigs)
            points.append(point)
            if on_point is not None:
                on_point(point)
    finally:
        elsewhere.cancel()
    return points[::-1]


def fitted(trainer: Trainer, task: Task) -> tuple[Model, float]:
    """Train a task wherever it is called; return the model and the time that it took."""
    start = time.perf_counter()
    model = trainer.train(task, None)
    return model, time.perf_counter() - start


class _Elsewhere:
    """Trainings of a curve that an executor has."""

    def __init__(self, curve: _Curve, executor: Executor | None, trainer: Trainer) -> None:
        self._curve, self._executor, self._trainer = curve, executor, trainer
        self._futures: dict[tuple[int, float], Future] = {}

    def submit(self, drawn: Sequence[IntArray], sigs: Sequence[float]) -> None:
        """Submit the trainings with these points and length scales, if there is an executor."""
        if self._executor is not None:
            for idxs in drawn:
                for sig in sigs:
                    future = self._executor.submit(fitted, self._trainer, self._curve.task(idxs, sig))
                    self._futures[len(idxs), sig] = future

    def get(self, n_train: int, sig: float) -> tuple[Model, float] | None:
        """Return a model and the time of its training; None if it is to be trained here."""
        future = self._futures.get((n_train, sig))
        return None if future is None else future.result()

    def cancel(self) -> None:
        """Drop what is not finished."""
        for future in self._futures.values():
            future.cancel()


@dataclass(frozen=True)
class _Curve:
    dataset: Mapping[str, Any]
    idxs_test: IntArray
    template: Task
    trainer: GDMLTrain
    options: CurveOptions
    callback: Callback | None

    def point(self, idxs: IntArray, sigs: Sequence[float], elsewhere: _Elsewhere) -> CurvePoint:
        """Train with these points, with the best of the length scales, and test."""
        best: tuple[float, float, GDMLPredict, float] | None = None
        for sig in sigs:
            model, seconds = elsewhere.get(len(idxs), sig) or self._trained(idxs, sig)
            predictor = GDMLPredict(model)
            rmse = 0.0
            if len(sigs) > 1:
                valid = Properties.of(self.template).idxs_valid
                title = f"Validation, {len(idxs):,} points, sigma {sig:g}"
                rmse = self._errors(predictor, valid, title).rmse["force"]
            if best is None or rmse < best[0]:
                best = rmse, sig, predictor, seconds
        assert best is not None
        _, sig, predictor, seconds = best
        if len(sigs) > 1 and sig in (min(sigs), max(sigs)):
            _log.warning("With %d points the best sigma, %g, is at the edge of those tried.", len(idxs), sig)
        errors = self._errors(predictor, self.idxs_test, f"Test, {len(idxs):,} points, sigma {sig:g}")
        units = Units.of(self.dataset)
        return CurvePoint(
            n_train=len(idxs),
            n_test=len(self.idxs_test),
            n_perms=len(self.template["perms"]),
            sig=float(sig),
            f_mae=errors.mae["force"],
            f_rmse=errors.rmse["force"],
            e_mae=errors.mae.get("energy"),
            e_rmse=errors.rmse.get("energy"),
            seconds=seconds,
            e_unit=units.energy,
            r_unit=units.length,
        )

    def _trained(self, idxs: IntArray, sig: float) -> tuple[Model, float]:
        start = time.perf_counter()
        model = self.trainer.train(self.task(idxs, sig), callback=self.callback, solver=self.options.solver)
        return model, time.perf_counter() - start

    def task(self, idxs: IntArray, sig: float) -> Task:
        """Return the task of training with these points and this length scale."""
        points = take_points(self.dataset, idxs)
        task: dict[str, Any] = {**self.template, "sig": sig, "idxs_train": idxs, "R_train": points.R}
        task["F_train"] = points.F
        if self.options.use_E:
            task["E_train"] = points.E
        if points.lattice is not None:
            task["lattice"] = points.lattice
        return cast(Task, task)

    def _errors(self, predictor: GDMLPredict, idxs: IntArray, title: str) -> Errors:
        step = Step(self.callback, title, len(idxs))
        errors = prediction_errors(predictor, self.dataset, idxs, self.options.use_E, step)
        step.done(f"forces {errors.mae['force']:.3f}/{errors.rmse['force']:.3f} (MAE/RMSE)")
        return errors


def _template(
    dataset: Mapping[str, Any],
    n_train: int,
    options: CurveOptions,
    trainer: GDMLTrain,
    idxs_test: IntArray,
    callback: Callback | None,
) -> Task:
    """Return the task of the largest model, drawn from what is not tested on; its points by their numbers in all."""
    rest = np.setdiff1d(np.arange(len(dataset["R"])), idxs_test)
    part = _part(dataset, rest)
    numbers = (part, n_train, part, options.n_valid)
    task = trainer.create_task(
        *numbers,
        sig=options.sigs[0],
        lam=options.lam,
        use_sym=options.use_sym,
        use_E=options.use_E,
        callback=callback,
        seed=options.seed,
    )
    moved = {key: rest[np.asarray(task[key], dtype=np.int64)] for key in ("idxs_train", "idxs_valid")}
    return cast(Task, {**task, **moved})


def _part(dataset: Mapping[str, Any], idxs: IntArray) -> Dataset:
    """Return a dataset of some of the points, with its name and permutations."""
    kept = {key: dataset[key] for key in ("name", "theory", "perms") if key in dataset}
    return cast(Dataset, {**part_of(dataset, idxs), **kept})


def _require_points(dataset: Mapping[str, Any], n_train: int, options: CurveOptions) -> None:
    wanted, there = n_train + options.n_valid + options.n_test, len(dataset["R"])
    if wanted > there:
        raise UsageError(
            f"{n_train:,} training, {options.n_valid:,} validation and {options.n_test:,} test points are {wanted:,}, "
            f"but the dataset has {there:,}. Ask for fewer."
        )
    if options.use_E and "E" not in dataset:
        raise UsageError("The dataset has no energies (key 'E'): train on forces alone, with use_E=False (--no_E).")


# ---- files ------------------------------------------------------------------------------------------------------


def save_curve(path: str | os.PathLike[str], points: Sequence[CurvePoint]) -> None:
    """Write a learning curve as CSV, a line a model, with the names of `CurvePoint` at the top."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(CurvePoint)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in asdict(point).items()} for point in points)
    with replacing(path, TEXT) as file:
        file.write(text.getvalue().encode())


def load_curve(path: str | os.PathLike[str]) -> list[CurvePoint]:
    """Read a learning curve that `save_curve` wrote.

    Raises
    ------
    DataError
        If the file is something else.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [_point(row) for row in csv.DictReader(file)]
    except (UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{path} is no learning curve that fastgdml wrote ({type(error).__name__}: {error}).") from None


def _point(row: dict[str, str]) -> CurvePoint:
    def value(name: str, kind: Any) -> Any:
        text = row[name]
        if kind in (int, float, str):
            return kind(text)
        return float(text) if text else None

    return CurvePoint(**{name: value(name, kind) for name, kind in get_type_hints(CurvePoint).items()})
