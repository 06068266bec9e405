"""What prediction needs of a trained model, checked; from and to the native model that computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .cell import Cell
from .descriptor import desc_weights_of, n_pairs, pair_perms_from_lin
from .entries import MODEL
from .errors import DataError
from .model import Model, normalize_model
from .native import _core
from .npz import text
from .samples import Samples, energy_coefficients
from .types import Array


@dataclass(frozen=True)
class ModelArrays:
    """A model for prediction. N atoms, M training points, D pairs of atoms, P permutations.

    Attributes
    ----------
    z : ndarray of int, shape (N,)
        Atomic numbers.
    pair_images : ndarray of int32, shape (P, D)
        For each permutation and pair of the training points, the pair of the query that stands for it.
    x, v : ndarray, shape (M, D)
        Descriptors of the training points, and their coefficients J alpha.
    alphas_E : ndarray, shape (M,), or None
        Coefficients of energy constraints.
    sig, std, c : float
        Length scale; scale and offset of the energy.
    image_rule : str or None
        How differences are folded into a cell; None for a molecule.
    cell : Cell or None
        The cell; None for a molecule, and if each training point had its own: then one is to be given.
    e_unit, r_unit, name, theory : str
        As recorded, empty where unknown.
    weights : ndarray, shape (D,), or None
        Weights of pairs in the descriptors, those of `x` and of queries; None: 1.
    samples : Samples or None
        Of the coefficients, for standard deviations.
    """

    z: npt.NDArray[np.integer]
    pair_images: npt.NDArray[np.int32]
    x: Array
    v: Array
    alphas_E: Array | None
    sig: float
    std: float
    c: float
    image_rule: str | None = None
    cell: Cell | None = None
    e_unit: str = ""
    r_unit: str = ""
    name: str = ""
    theory: str = ""
    weights: Array | None = None
    samples: Samples | None = None

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> ModelArrays:
        """Take the arrays of a model as training returns it, or a file holds it.

        Raises
        ------
        DataError
            If arrays are missing or contradict each other.
        """
        model = checked_model(model)
        z = np.asarray(model["z"])
        n_desc = n_pairs(len(z))
        x = np.asarray(model["R_desc"], dtype=np.float64).T
        v = np.asarray(model["R_d_desc_alpha"], dtype=np.float64)
        # x_i - P_p x_j, read with the permutation on the query: the image under the inverse pair permutation.
        pair_images = np.argsort(pair_perms_from_lin(model["tril_perms_lin"], n_desc), axis=1)
        cell = Cell.of(model)
        return cls(
            z=z,
            pair_images=pair_images.astype(np.int32),
            x=x,
            v=v,
            alphas_E=energy_coefficients(model.get("alphas_E"), len(x), DataError),
            sig=float(model["sig"]),
            std=float(model["std"]),
            c=float(model["c"]),
            image_rule=None if cell is None else cell.image_rule,
            cell=None if cell is None or cell.varies else cell,
            e_unit=text(model.get("e_unit", "")),
            r_unit=text(model.get("r_unit", "")),
            name=text(model.get("dataset_name", "")),
            theory=text(model.get("dataset_theory", "")),
            weights=desc_weights_of(model, len(z)),
            samples=Samples.of(model),
        )

    @classmethod
    def of_native(cls, native: _core.Model) -> ModelArrays:
        """Take the arrays back from a native model. Descriptors differ from the original ones by rounding errors."""
        properties = native.properties()
        pair_images, x, v, alphas_E = native.arrays()
        return cls(
            z=properties["z"],
            pair_images=pair_images,
            x=x,
            v=v,
            alphas_E=alphas_E,
            sig=properties["sig"],
            std=properties["std"],
            c=properties["c"],
            image_rule=image_rule_of(properties),
            cell=cell_of(properties),
            e_unit=properties["e_unit"],
            r_unit=properties["r_unit"],
            name=properties["dataset_name"],
            theory=properties["dataset_theory"],
            weights=properties.get("desc_weights"),
            samples=Samples.of_native(native),
        )

    def with_coefficients(self, v: Array, alphas_E: Array | None, c: float | None = None) -> ModelArrays:
        """Return the model with other coefficients, perhaps another constant, and without samples of the old ones.

        Raises
        ------
        DataError
            If shapes do not fit the training points.
        """
        if v.shape != self.x.shape:
            raise DataError(f"J alpha has shape {v.shape}; {self.x.shape} expected.")
        alphas_E = energy_coefficients(alphas_E, len(self.x), DataError)
        return replace(self, v=v, alphas_E=alphas_E, c=self.c if c is None else c, samples=None)

    def native(self) -> _core.Model:
        """Return the native model, laid out for prediction.

        Raises
        ------
        DataError
            If a number is not finite, or sigma not positive.
        """
        samples: dict[str, Any] = {}
        if self.samples is not None:
            samples = {
                "std_v": np.ascontiguousarray(self.samples.v),
                "std_energies": self.samples.alphas_E,
                "std_c": np.ascontiguousarray(self.samples.c),
                "std_scale": self.samples.scale,
            }
        try:
            return _core.model_from_arrays(
                np.ascontiguousarray(self.z, dtype=np.int32),
                np.ascontiguousarray(self.pair_images, dtype=np.int32),
                np.ascontiguousarray(self.x),
                np.ascontiguousarray(self.v),
                self.alphas_E,
                self.alphas_E is not None,
                self.sig,
                self.std,
                self.c,
                periodic=self.image_rule is not None,
                minimum_image=self.image_rule == "minimum",
                lattice=None if self.cell is None else self.cell.lattice,
                energy_unit=self.e_unit.encode(),
                length_unit=self.r_unit.encode(),
                name=self.name.encode(),
                theory=self.theory.encode(),
                weights=self.weights,
                **samples,
            )
        except (ValueError, OSError) as error:
            raise DataError(str(error)) from None


def checked_model(model: Mapping[str, Any]) -> Model:
    """Return those entries of a model that fastgdml knows, checked.

    What else it holds is not touched: in an open file of NumPy it may be an object that cannot be read.

    Raises
    ------
    DataError
        As `normalize_model`.
    """
    return normalize_model({key: model[key] for key in (*MODEL, "use_cprsn") if key in model})


def image_rule_of(properties: Mapping[str, Any]) -> str | None:
    """Return the image rule of a native model with these properties; None for a molecule."""
    if not properties["periodic"]:
        return None
    return "minimum" if properties["minimum_image"] else "rounding"


def cell_of(properties: Mapping[str, Any]) -> Cell | None:
    """Return the cell of a native model with these properties; None for molecules, and if a cell is yet to be given."""
    rule = image_rule_of(properties)
    return Cell(properties["lattice"], rule) if rule and "lattice" in properties else None
