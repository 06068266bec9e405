"""Errors of a model on labelled geometries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from .dataset import take_points
from .errors import NoPointsLeftError, UsageError
from .model import Model
from .overlap import KnownGeometries, require_drawn_from, seen_points
from .predict import GDMLPredict
from .progress import Callback, Step
from .properties import Properties
from .sampling import draw_points, generator
from .types import Array, IntArray
from .uncertainty import leave_one_out_errors
from .units import Units, conversion

_log = logging.getLogger(__name__)

# Geometries predicted between two progress reports.
_CHUNK = 1000


@dataclass(frozen=True)
class Errors:
    """Mean absolute and root mean square errors.

    Attributes
    ----------
    mae, rmse : dict
        By quantity: ``force`` (a component), ``magnitude`` (of the force on an atom), ``angle`` (between predicted
        and true force on an atom, as a fraction of pi, unless all forces are zero) and, where known, ``energy``. In the
        units of the model.
    mean : dict
        Mean of predicted minus true values.
    """

    mae: dict[str, float]
    rmse: dict[str, float]
    mean: dict[str, float] = field(default_factory=dict)


def prediction_errors(
    predictor: GDMLPredict,
    dataset: Mapping[str, Any],
    idxs: IntArray,
    use_E: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Errors:
    """Compare predictions with the labels of points of a dataset.

    Parameters
    ----------
    predictor : GDMLPredict
        The model.
    dataset : mapping
        Labelled geometries. If it has lattice vectors, these are used, not the model's. If it records other units than
        the model, it is converted.
    idxs : ndarray of int
        The points.
    use_E : bool
        Whether to compare energies.
    progress : callable, optional
        Called with (points done, all points).

    Returns
    -------
    Errors

    Raises
    ------
    UsageError
        If there are no points.
    DataError
        If the units of dataset and model differ and one is unknown.
    """
    if len(idxs) == 0:
        raise UsageError("There are no points to compare predictions on.")
    units, model_units = Units.of(dataset), Units(predictor.e_unit, predictor.r_unit)
    factors = conversion(units, model_units, "dataset", "model")
    if factors:
        _log.info(
            "The dataset is in %s, the model in %s: labels are converted to the model's units.", units, model_units
        )
    sums = ErrorSums()
    for first in range(0, len(idxs), _CHUNK):
        chunk = idxs[first : first + _CHUNK]
        points = take_points(dataset, chunk, factors)
        E, F = predictor.predict(points.R.reshape(len(chunk), -1), lattice=points.lattice)
        sums.add_forces(F, points.F)
        if use_E:
            if points.E is None:
                raise UsageError("The dataset has no energies (key 'E'): compare forces alone, with use_E=False.")
            sums.add_energies(E, points.E)
        if progress is not None:
            progress(first + len(chunk), len(idxs))
    return sums.errors()


@dataclass(frozen=True)
class Calibration:
    """How standard deviations compare with errors on labelled geometries.

    Attributes
    ----------
    force_ratio : float
        Root mean square error of components of forces over the root mean square deviation: 1 if the scale is right.
    energy_ratio : float or None
        The same of energies.
    rank_correlation : float
        Spearman's, of the root mean square errors of the forces of geometries with their deviations.
    bins : ndarray, shape (n_bins, 2)
        Geometries sorted by deviation, in parts of equal size: root mean square deviation and error of each.
    """

    force_ratio: float
    energy_ratio: float | None
    rank_correlation: float
    bins: Array


def calibration(
    predictor: GDMLPredict, dataset: Mapping[str, Any], idxs: IntArray, use_E: bool, n_bins: int = 5
) -> Calibration:
    """Compare the standard deviations of a model with its errors; parameters and exceptions as `prediction_errors`."""
    if len(idxs) < 2:
        raise UsageError("Two points at least are needed to compare standard deviations with errors.")
    factors = conversion(Units.of(dataset), Units(predictor.e_unit, predictor.r_unit), "dataset", "model")
    parts: list[tuple[Array, ...]] = []
    for first in range(0, len(idxs), _CHUNK):
        points = take_points(dataset, idxs[first : first + _CHUNK], factors)
        n = len(points.R)
        E, F, E_std, F_std = predictor.predict(points.R.reshape(n, -1), lattice=points.lattice, return_std=True)
        error_E = np.zeros(n) if points.E is None or not use_E else E - points.E
        error_F = np.mean((F.reshape(points.F.shape) - points.F) ** 2, axis=(1, 2))
        parts.append((error_F, (F_std**2).mean(axis=1), error_E, E_std))
    error_F, variance_F, error_E, E_std = (np.concatenate(column) for column in zip(*parts, strict=True))
    ranks = np.argsort(np.argsort([error_F, variance_F], axis=1), axis=1)
    correlation: Array = np.asarray(np.corrcoef(ranks))
    order = np.array_split(np.argsort(variance_F), min(n_bins, len(idxs)))
    return Calibration(
        force_ratio=_ratio(error_F, variance_F),
        energy_ratio=_ratio(error_E**2, E_std**2) if use_E else None,
        rank_correlation=float(correlation[0, 1]),
        bins=np.sqrt([(variance_F[part].mean(), error_F[part].mean()) for part in order]),
    )


def with_scale(
    model: Model, predictor: GDMLPredict, dataset: Mapping[str, Any], callback: Callback | None = None
) -> Model:
    """Return a model with its standard deviations scaled to the errors of its forces on all points of a dataset."""
    if len(dataset["F"]) < 2 or not np.any(dataset["F"]):
        _log.warning("There are too few validation points, or without forces, to scale the standard deviations.")
        return model
    step = Step(callback, f"Standard deviations on {len(dataset['F']):,} points")
    found = calibration(predictor, dataset, np.arange(len(dataset["F"])), use_E=False)
    left_out = leave_one_out_errors(model)
    text = f", leave-one-out MAE {left_out[0]:.3f}" if left_out else ""
    step.done(f"scale {found.force_ratio:.2f}, rank correlation {found.rank_correlation:.2f}{text}")
    scale = found.force_ratio if np.isfinite(found.force_ratio) else 1.0
    return cast(Model, {**model, "std_scale": predictor.std_scale * scale})


def _ratio(squared_errors: Array, variances: Array) -> float:
    return float(np.sqrt(squared_errors.mean() / variances.mean())) if variances.any() else float("inf")


def measure_errors(
    predictor: GDMLPredict,
    dataset: Mapping[str, Any],
    idxs: IntArray,
    use_E: bool,
    title: str,
    callback: Callback | None = None,
) -> Errors:
    """Compare predictions with labels as `prediction_errors` does, as one step of the work, '`title` on n points'."""
    if use_E and "E" not in dataset:
        raise UsageError("The model predicts energies but the dataset has none (key 'E'); use another dataset.")
    step = Step(callback, f"{title} on {len(idxs):,} points", len(idxs))
    errors = prediction_errors(predictor, dataset, idxs, use_E, step)
    energy = f"energy {errors.mae['energy']:.3f}/{errors.rmse['energy']:.3f}, " if use_E else ""
    step.done(f"{energy}forces {errors.mae['force']:.3f}/{errors.rmse['force']:.3f} (MAE/RMSE)")
    return errors


def validation_points(task_or_model: Mapping[str, Any], dataset: Mapping[str, Any]) -> IntArray:
    """Return the validation points of a task or model, but for those that are training points as well.

    Warns of the latter.

    Raises
    ------
    UsageError
        If the dataset is not the one that they were drawn from, there are none, or their forces are all zero.
    """
    require_drawn_from(task_or_model, "valid", dataset, "the model")
    recorded = Properties.of(task_or_model)
    idxs = recorded.idxs_valid
    known = None if recorded.md5_train == recorded.md5_valid else KnownGeometries.of(task_or_model)
    trained = idxs[:0] if known is None else known.find_in(dataset, idxs)[0]
    if len(trained):
        _log.warning("%s of the validation points are training points as well: they are left out.", f"{len(trained):,}")
    idxs = idxs[~np.isin(idxs, trained)]
    if len(idxs) == 0:
        raise UsageError("The model has no validation points.")
    if not np.any(dataset["F"][idxs]):
        raise UsageError(
            "All forces of the validation points are zero. Are they a placeholder? Models are chosen by their forces."
        )
    return idxs


def with_errors(model: Mapping[str, Any], errors: Errors) -> Model:
    """Return a model with these as its expected errors."""
    updated = cast(Model, {**model, "f_err_mae": errors.mae["force"], "f_err_rmse": errors.rmse["force"]})
    if "energy" in errors.mae:
        updated["e_err_mae"], updated["e_err_rmse"] = errors.mae["energy"], errors.rmse["energy"]
    return updated


def validated(model: Mapping[str, Any], errors: Errors) -> Model:
    """Return a model with the errors of its validation; those of an earlier test are forgotten."""
    return with_errors({**model, "n_test": 0, "md5_test": b""}, errors)


class ErrorSums:
    """Sums of deviations, for geometries that come in pieces."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float, float, int]] = {}

    def add_forces(self, F: Array, F_ref: Array) -> None:
        """Compare forces, any shapes of equal size whose last axis runs over x, y, z."""
        for name, deviation in _force_deviations(F, F_ref).items():
            self._add(name, deviation)

    def add_energies(self, E: Array, E_ref: Array) -> None:
        """Compare energies."""
        self._add("energy", E - E_ref)

    def _add(self, name: str, deviation: Array) -> None:
        absolute, squared, signed, count = self._sums.get(name, (0.0, 0.0, 0.0, 0))
        self._sums[name] = (
            absolute + float(np.abs(deviation).sum()),
            squared + float(np.square(deviation).sum()),
            signed + float(deviation.sum()),
            count + deviation.size,
        )

    def errors(self) -> Errors:
        """Return the errors of all that was compared; without geometries, none."""
        sums = {name: parts for name, parts in self._sums.items() if parts[3]}
        return Errors(
            {name: absolute / count for name, (absolute, _, _, count) in sums.items()},
            {name: float(np.sqrt(squared / count)) for name, (_, squared, _, count) in sums.items()},
            {name: signed / count for name, (_, _, signed, count) in sums.items()},
        )


def _force_deviations(F_pred: Array, F_ref: Array) -> dict[str, Array]:
    predicted, reference = F_pred.reshape(-1, 3), F_ref.reshape(-1, 3)
    size_pred, size_ref = np.linalg.norm(predicted, axis=1), np.linalg.norm(reference, axis=1)
    # The angle to a force of zero is undefined (frozen atoms have such labels).
    defined = (size_pred > 0) & (size_ref > 0)
    cosine = np.einsum("ai,ai->a", predicted[defined], reference[defined]) / (size_pred * size_ref)[defined]
    return {
        "force": predicted - reference,
        "magnitude": size_pred - size_ref,
        "angle": np.arccos(np.clip(cosine, -1, 1)) / np.pi,
    }


def draw_test_points(model: Mapping[str, Any], dataset: Mapping[str, Any], n_test: int | None, seed: int) -> IntArray:
    """Draw test points: none that the model was trained or validated on, stratified by energy where there is one.

    These are known by the fingerprint of the dataset, or by their geometries; see `fastgdml.overlap`.

    Parameters
    ----------
    model, dataset : mapping
        The model and the dataset to test on.
    n_test : int, optional
        Number of points; all that are left by default, and at most those.
    seed : int
        Seed of the draw.

    Raises
    ------
    NoPointsLeftError
        If no point is left.
    """
    used = np.zeros(len(dataset["F"]), dtype=bool)
    used[seen_points(model, dataset)] = True
    n_left = int(np.count_nonzero(~used))
    if n_left == 0:
        raise NoPointsLeftError(
            f"All {len(used)} points of this dataset were used for training or validation; test on another dataset."
        )
    n_test = n_left if n_test is None else min(n_test, n_left)
    excluded = np.flatnonzero(used)
    rng = generator(seed)
    return draw_points(dataset, n_test, rng, excluded)
