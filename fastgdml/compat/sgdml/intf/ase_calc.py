"""Stands in for sgdml.intf.ase_calc."""

import logging
import os
from typing import Any

import numpy as np
from ase.units import kcal, mol

from fastgdml.drivers.ase import FastGDMLCalculator, recorded_units
from fastgdml.model import load_model

_log = logging.getLogger(__name__)


class SGDMLCalculator(FastGDMLCalculator):
    """`FastGDMLCalculator` with the arguments and default units of sgdml.

    Parameters
    ----------
    model_path : path-like
        Model file.
    E_to_eV : float
        Energy unit of the model in eV; kcal/mol by default, whatever the model records.
    F_to_eV_Ang : float
        Force unit of the model in eV/Angstrom; kcal/mol/Angstrom by default.
    use_torch : bool
        Accepted for compatibility with sgdml; warns and has no effect.
    *args, **kwargs
        Accepted for compatibility with ASE's `Calculator`; of these, `atoms` is used: the calculator is attached to it.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        E_to_eV: float = kcal / mol,
        F_to_eV_Ang: float = kcal / mol,
        use_torch: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if use_torch:
            _log.warning("use_torch has no effect: PyTorch is not used.")
        model = load_model(model_path)
        given = (E_to_eV, E_to_eV / F_to_eV_Ang)
        recorded = recorded_units(model)
        if recorded is not None and not np.allclose(recorded, given, rtol=1e-3):
            _log.warning(
                "E_to_eV = %g and F_to_eV_Ang = %g (the defaults are kcal/mol and kcal/mol/Angstrom) contradict the "
                "units that the model records; by these they would be %g and %g.",
                E_to_eV,
                F_to_eV_Ang,
                recorded[0],
                recorded[0] / recorded[1],
            )
        super().__init__(model, e_unit=given[0], r_unit=given[1])
        self.gdml_predict = self.predictor
        self.E_to_eV = E_to_eV
        self.F_to_eV_Ang = F_to_eV_Ang
        self.Ang_to_R = F_to_eV_Ang / E_to_eV
        if kwargs.get("atoms") is not None:
            kwargs["atoms"].calc = self
