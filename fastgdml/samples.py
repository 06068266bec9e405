"""Samples of a model's coefficients, for standard deviations of its predictions; see docs/theory/uncertainty.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .native import _core
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

    @classmethod
    def of_native(cls, native: _core.Model) -> Samples | None:
        """Take the samples back from a native model; None if it has none."""
        properties = native.properties()
        if not properties["n_std"]:
            return None
        v, alphas_E, c = native.samples()
        return cls(v, alphas_E, c, properties["std_scale"])

    def entries(self) -> dict[str, Any]:
        """Return what a model file has of them."""
        entries = {"std_R_d_desc_alpha": self.v, "std_c": self.c, "std_scale": self.scale}
        return entries if self.alphas_E is None else entries | {"std_alphas_E": self.alphas_E}


def energy_coefficients(alphas_E: npt.ArrayLike | None, n_train: int, error: type[Exception]) -> Array | None:
    """Return coefficients of energy constraints as an array (M,), or raise `error` if their number is another."""
    if alphas_E is None:
        return None
    checked = np.ascontiguousarray(alphas_E, dtype=np.float64).ravel()
    if checked.size != n_train:
        raise error(f"alphas_E has {checked.size} elements; one for each of {n_train} training points expected.")
    return checked
