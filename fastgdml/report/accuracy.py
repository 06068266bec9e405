"""Predictions against labels in figures: mean errors, distributions, the worst geometries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..dataset import Points
from ..elements import SYMBOLS
from ..types import Array, IntArray
from .facts import Accuracy, Density, Histogram, Quantity, Spread, Worst
from .structure import geometry_of

# Squares on a side of a density, bins of a histogram.
_N_SQUARES = 48
_N_BINS = 61
# A histogram reaches to this quantile of the absolute errors.
_REACH = 0.995


@dataclass(frozen=True)
class Predictions:
    """Predicted energies (n,), None without labels for them, and forces (n, N, 3) of points by their numbers."""

    z: npt.NDArray[np.integer]
    numbers: IntArray
    points: Points
    E: Array | None
    F: Array


def accuracy(predictions: Predictions, dataset: tuple[str, str], n_left: int, n_worst: int) -> Accuracy:
    """Summarise predictions for points of a dataset, whose name and fingerprint are given."""
    points = predictions.points
    deviation = predictions.F - points.F
    lengths = np.linalg.norm(deviation, axis=2)
    energies = e_density = e_histogram = e_deviation = None
    if predictions.E is not None and points.E is not None:
        e_deviation = predictions.E - points.E
        energies, e_histogram = _quantity(e_deviation), histogram(e_deviation)
        e_density = density(points.E - points.E.mean(), predictions.E - points.E.mean())
    return Accuracy(
        dataset=dataset[0],
        fingerprint=dataset[1],
        n_geometries=len(points.R),
        n_left=n_left,
        forces=_quantity(deviation),
        energies=energies,
        f_density=density(points.F.ravel(), predictions.F.ravel()),
        e_density=e_density,
        f_histogram=histogram(deviation),
        e_histogram=e_histogram,
        elements=_by_element(predictions.z, lengths),
        atoms=[_spread(f"{SYMBOLS[int(z)]} {a}", lengths[:, [a]]) for a, z in enumerate(predictions.z)],
        worst=_worst(predictions, deviation, lengths, e_deviation, n_worst),
    )


def density(reference: Array, prediction: Array) -> Density:
    """Count pairs on a grid that holds them all."""
    values = np.concatenate([reference, prediction])
    low, high = float(values.min()), float(values.max())
    margin = 0.02 * (high - low) or max(abs(high), 1.0) * 1e-6
    low, high = low - margin, high + margin
    counts = np.histogram2d(reference, prediction, _N_SQUARES, [[low, high], [low, high]])[0].astype(int)
    filled = np.argwhere(counts)
    return Density(low, high, _N_SQUARES, [[int(a), int(b), int(counts[a, b])] for a, b in filled])


def histogram(errors: Array) -> Histogram:
    """Count errors in bins that are symmetric about 0."""
    values = np.ravel(errors)
    reach = float(np.quantile(np.abs(values), _REACH)) or float(np.abs(values).max()) or 1e-12
    counts = np.histogram(values, _N_BINS, (-reach, reach))[0]
    return Histogram(-reach, reach, counts.tolist(), int(values.size - counts.sum()))


def _quantity(deviation: Array) -> Quantity:
    rmse = np.sqrt(np.mean(np.square(deviation)))
    return Quantity(float(np.mean(np.abs(deviation))), float(rmse), float(np.mean(deviation)))


def _by_element(z: npt.NDArray[np.integer], lengths: Array) -> list[Spread]:
    return [_spread(SYMBOLS[int(number)], lengths[:, z == number]) for number in np.unique(z)]


def _spread(label: str, lengths: Array) -> Spread:
    quantiles = np.percentile(lengths, (5, 25, 50, 75, 95)).tolist()
    return Spread(label, lengths.shape[1], float(lengths.mean()), *quantiles)


def _worst(
    predictions: Predictions, deviation: Array, lengths: Array, e_deviation: Array | None, n_worst: int
) -> list[Worst]:
    rmse = np.sqrt(np.square(deviation).mean(axis=(1, 2)))
    order: Sequence[int] = np.argsort(-rmse, kind="stable")[:n_worst].tolist()
    z = predictions.z.tolist()
    return [
        Worst(
            number=int(predictions.numbers[i]),
            f_rmse=float(rmse[i]),
            e_error=None if e_deviation is None else float(e_deviation[i]),
            geometry=geometry_of(predictions.points.R[i], z),
            atoms=np.round(lengths[i], 6).tolist(),
        )
        for i in order
    ]
