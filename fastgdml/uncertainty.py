"""What a model records of the jackknife: samples, and errors of leaving points out; see docs/theory/uncertainty.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .descriptor import jacobian_dot
from .engine import NativeEngine
from .model_arrays import ModelArrays
from .solvers.choice import Solution
from .solvers.equations import TrainingEquations
from .solvers.jackknife import Jackknife
from .types import Array


def leave_one_out_errors(model: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the mean absolute and root mean square error of forces left out of training; None if not recorded."""
    if model.get("loo_f") is None:
        return None
    residuals = np.asarray(model["loo_f"], dtype=np.float64)
    return float(np.abs(residuals).mean()), float(np.sqrt((residuals**2).mean()))


def label_noise(equations: TrainingEquations, std: float, solution: Solution) -> float:
    """Return the noise of force labels that lambda stands for: its standard deviation in units of the labels.

    The model is the mean of a Gaussian process whose covariance of labels is s2 (-K + lam I) std^2, with the scale s2
    of largest marginal likelihood, y^T x / m of m independent labels y and the solution x = -alpha
    (`fastgdml.evidence`): noise = std sqrt(s2 lam). NaN where s2 is not positive: an iteration did not converge.
    """
    fit = float(equations.y @ solution.alphas_F)
    if equations.y_E is not None and solution.alphas_E is not None:
        fit += float(equations.y_E @ solution.alphas_E)
    m = equations.n_independent
    return std * math.sqrt(-fit / m * solution.lam) if fit < 0 < m else math.nan


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
