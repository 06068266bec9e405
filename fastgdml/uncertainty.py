"""Predictive standard deviations of a model that carries jackknife samples; see docs/theory/uncertainty.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cell import Cell
from .descriptor import jacobian_dot
from .engine import Engine, NativeEngine
from .errors import DataError
from .model_arrays import ModelArrays, checked_model, energy_coefficients
from .solvers.jackknife import Jackknife
from .types import Array


@dataclass(frozen=True)
class Samples:
    """Coefficients of S samples. M training points, D pairs of atoms.

    Attributes
    ----------
    v : ndarray, shape (S, M, D)
        J alpha of each.
    alphas_E : ndarray, shape (S, M), or None
        Coefficients of energy constraints.
    c : ndarray, shape (S,)
        Constants of the energies.
    scale : float
        What deviations are multiplied by.
    """

    v: Array
    alphas_E: Array | None
    c: Array
    scale: float

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> Samples | None:
        """Take the samples of a model; None if it has none.

        Raises
        ------
        DataError
            If they do not fit the model.
        """
        if model.get("std_R_d_desc_alpha") is None:
            return None
        model = checked_model(model)
        v = np.asarray(model["std_R_d_desc_alpha"], dtype=np.float64)
        expected = np.shape(model["R_d_desc_alpha"])
        c = np.atleast_1d(np.asarray(model.get("std_c", np.zeros(len(v))), dtype=np.float64))
        if v.ndim != 3 or v.shape[1:] != expected or len(v) < 1 or c.shape != (len(v),):
            raise DataError(
                f"std_R_d_desc_alpha {v.shape} and std_c {c.shape} do not fit a model with R_d_desc_alpha {expected}: "
                "(n_std, *) and (n_std,) expected."
            )
        scale = float(model.get("std_scale", 1.0))
        alphas_E = model.get("std_alphas_E")
        if alphas_E is not None:
            alphas_E = np.array([energy_coefficients(row, expected[0], DataError) for row in np.atleast_2d(alphas_E)])
            if len(alphas_E) != len(v):
                raise DataError(f"std_alphas_E has {len(alphas_E)} rows; one for each of {len(v)} samples expected.")
        if not (np.isfinite(v).all() and np.isfinite(c).all() and np.isfinite(scale) and scale >= 0):
            raise DataError("The samples for standard deviations (std_...) hold numbers that are not finite.")
        return cls(v, alphas_E, c, scale)


def leave_one_out_errors(model: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the mean absolute and root mean square error of forces left out of training; None if not recorded."""
    if model.get("loo_f") is None:
        return None
    residuals = np.asarray(model["loo_f"], dtype=np.float64)
    return float(np.abs(residuals).mean()), float(np.sqrt((residuals**2).mean()))


class Deviations:
    """Standard deviations of the predictions of an engine.

    Parameters
    ----------
    engine : Engine
        The model.
    samples : Samples
        Its samples.
    """

    def __init__(self, engine: Engine, samples: Samples) -> None:
        self._scale = samples.scale
        alphas_E = [None] * len(samples.v) if samples.alphas_E is None else samples.alphas_E
        self._engines = [
            engine.with_coefficients(v, energies, float(c))
            for v, energies, c in zip(samples.v, alphas_E, samples.c, strict=True)
        ]

    def predict(self, R: Any, cell: Cell | None, n_threads: int) -> tuple[Array, Array]:
        """Return standard deviations of energies (n_geo,) and of forces (n_geo, N), each a component's on that atom."""
        squared_E: Any = 0.0
        squared_F: Any = 0.0
        for engine in self._engines:
            E, F = engine.predict(R, True, cell, False, n_threads)
            squared_E = squared_E + E**2
            squared_F = squared_F + (F.reshape(len(F), -1, 3) ** 2).mean(axis=2)
        count = len(self._engines)
        return self._scale * (squared_E / count) ** 0.5, self._scale * (squared_F / count) ** 0.5


def sample_entries(model: Mapping[str, Any], found: Jackknife, x: Array, g: Array, n_threads: int) -> dict[str, Any]:
    """Return the entries of a model that hold its samples.

    Parameters
    ----------
    model : mapping
        The model.
    found : Jackknife
        Samples and residuals.
    x, g : ndarray, shapes (M, D) and (M, D, 3)
        Descriptors and Jacobians of the training points.
    n_threads : int
        Number of threads.
    """
    v = np.array([jacobian_dot(g, alphas.reshape(len(x), -1)) for alphas in found.alphas_F])
    entries: dict[str, Any] = {
        "std_R_d_desc_alpha": v,
        "std_c": np.zeros(len(v)),
        "std_scale": 1.0,
        "loo_f": model["std"] * found.residuals.reshape(len(x), -1, 3),
    }
    if found.alphas_E is not None:
        entries["std_alphas_E"] = found.alphas_E
    elif model["use_E"]:
        # Each sample has its own constant, as the model has.
        arrays = ModelArrays.of(model)
        for s, sample in enumerate(v):
            engine = NativeEngine(arrays.with_coefficients(sample, None, 0.0).native())
            entries["std_c"][s] = -engine.predict_descriptors(x, g, True, n_threads)[0].mean()
    return entries
