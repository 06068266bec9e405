"""What tasks and models say of themselves: their numbers and texts, each of one type, read from the entries once.

Arrays are elsewhere: `fastgdml.task.TaskArrays` has those that training needs, `fastgdml.model_arrays` those of
prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .length_scale import AUTO
from .npz import text
from .types import Array, IntArray


@dataclass(frozen=True)
class Properties:
    """Properties of a task, or those that a model has of its task.

    Attributes
    ----------
    name, theory : str
        The system and the level of theory, as the dataset names them.
    sig, lam : float
        Length scale and regularisation; lam is NaN in models that do not record it.
    idxs_train, idxs_valid : ndarray of int64
        Training and validation points, by their numbers in their datasets.
    md5_train, md5_valid : str
        Fingerprints of these datasets; empty if not recorded.
    n_perms : int
        Number of permutations.
    use_E, constrain_E : bool
        Whether energies are fitted, and whether point by point.
    seed : int or None
        Seed of the draw of points.
    code_version : str
        Version of the program that wrote.
    finds_sig : bool
        Whether the search of the task finds its length scales itself.
    weights : str
        Weights of which pairs were to be learned, or "none".
    desc_weights : ndarray, shape (D,), or None
        Those that were learned.
    weights_gain : tuple of float
        Shares by which they lower the errors of forces and energies on the validation points; NaN where unknown.
    """

    name: str
    theory: str
    sig: float
    lam: float
    idxs_train: IntArray
    idxs_valid: IntArray
    md5_train: str
    md5_valid: str
    n_perms: int
    use_E: bool
    constrain_E: bool
    seed: int | None
    code_version: str
    finds_sig: bool
    weights: str
    desc_weights: Array | None
    weights_gain: tuple[float, float]

    @classmethod
    def of(cls, entries: Mapping[str, Any]) -> Properties:
        """Take those of a task or model."""
        force, energy = np.ravel(entries.get("weights_gain", (np.nan, np.nan)))
        constrained = entries.get("use_E_cstr", "alphas_E" in entries)
        return cls(
            name=text(entries.get("dataset_name", "unknown")),
            theory=text(entries.get("dataset_theory", "unknown")),
            sig=float(entries["sig"]),
            lam=float(entries.get("lam", np.nan)),
            idxs_train=np.asarray(entries["idxs_train"], dtype=np.int64).ravel(),
            idxs_valid=np.asarray(entries["idxs_valid"], dtype=np.int64).ravel(),
            md5_train=text(entries["md5_train"]),
            md5_valid=text(entries["md5_valid"]),
            n_perms=entries["n_perms"] if "n_perms" in entries else len(np.atleast_2d(entries["perms"])),
            use_E=bool(entries.get("use_E", True)),
            constrain_E=bool(constrained),
            seed=None if entries.get("seed") is None else int(entries["seed"]),
            code_version=text(entries.get("code_version", "unknown")),
            finds_sig=text(entries.get("sig_search", "")) == AUTO,
            weights=text(entries.get("weights", "none")),
            desc_weights=entries.get("desc_weights"),
            weights_gain=(float(force), float(energy)),
        )


@dataclass(frozen=True)
class Outcome:
    """What came out of a training: the solver's report and the errors that are expected of the model.

    Attributes
    ----------
    solver, reason : str
        The solver and why it was chosen; the reason is empty if not recorded.
    tol, residual, target : float
        Tolerance of the iterative solver, its residual at the end, and that at which the tolerance is met; NaN if not
        recorded.
    n_steps : int or None
        Its number of steps.
    n_test : int
        Number of test points; 0 if errors are those of the validation.
    md5_test : str
        Fingerprint of their dataset.
    mae, rmse : dict
        Errors of 'energy', if there are any, and 'force'; NaN before a validation.
    label_noise : float
        Noise of force components, in their unit, that lambda stands for; NaN if not recorded.
    search : list of lists of 5 floats
        Of each model of the search that it was selected from: sigma, force MAE and RMSE, energy MAE and RMSE.
    """

    solver: str
    reason: str
    tol: float
    residual: float
    target: float
    n_steps: int | None
    n_test: int
    md5_test: str
    mae: dict[str, float]
    rmse: dict[str, float]
    label_noise: float
    search: list[list[float]]

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> Outcome:
        """Take those of a model."""
        tol, norm = float(model.get("solver_tol", np.nan)), float(model.get("norm_y_train", np.nan))
        keys = [(name, key) for name, key in (("energy", "e_err"), ("force", "f_err")) if f"{key}_mae" in model]
        return cls(
            solver=text(model.get("solver_name", "unknown")),
            reason=text(model.get("solver_reason", "")),
            tol=tol,
            residual=float(model.get("solver_resid", np.nan)),
            target=tol * norm,
            n_steps=int(model["solver_iters"]) if "solver_iters" in model else None,
            n_test=int(model.get("n_test", 0)),
            md5_test=text(model.get("md5_test", "")),
            mae={name: float(model[f"{key}_mae"]) for name, key in keys},
            rmse={name: float(model.get(f"{key}_rmse", np.nan)) for name, key in keys},
            label_noise=float(model.get("label_noise", np.nan)),
            search=np.asarray(model.get("search_errors", np.empty((0, 5))), dtype=np.float64).reshape(-1, 5).tolist(),
        )

    @property
    def converged(self) -> bool:
        """Whether the iterative solver reached its tolerance; True for other solvers."""
        return not self.residual > self.target
