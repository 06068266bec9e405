"""Energy, gradient and Hessian as functions of a molecule of PySCF, in its units; PySCF itself is not imported.

>>> from pyscf.geomopt import as_pyscf_method, geometric_solver
>>> functions = PySCFFunctions("model.npz")
>>> geometric_solver.optimize(as_pyscf_method(mol, functions.energy_and_gradient))
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..elements import symbols_of
from ..errors import DataError
from ..types import Array
from .common import AnyModel, open_model, unit_sizes


class PySCFFunctions:
    """Functions of a ``pyscf.gto.Mole`` (what is needed of it are `atom_coords` and `atom_charges`).

    Parameters
    ----------
    model : path-like, mapping or GDMLPredict
        The model, of a molecule.
    e_unit, r_unit : str or float, optional
        Units of the model, if it does not record them: a name, or the size in Hartree or Bohr.
    max_processes : int, optional
        Number of threads. All by default.

    Raises
    ------
    UsageError
        If the units are unknown.
    """

    def __init__(
        self,
        model: AnyModel,
        e_unit: str | float | None = None,
        r_unit: str | float | None = None,
        max_processes: int | None = None,
    ) -> None:
        self.predictor = open_model(model, max_processes)
        self._e_unit, self._r_unit = unit_sizes(self.predictor, e_unit, r_unit, "Hartree", "Bohr")

    def energy_and_gradient(self, mol: Any) -> tuple[float, Array]:
        """Return the energy (Hartree) and its gradient (n_atoms, 3) (Hartree/Bohr)."""
        E, F = self.predictor.predict(self._positions(mol))
        return float(E[0]) * self._e_unit, -F.reshape(-1, 3) * (self._e_unit / self._r_unit)

    def hessian(self, mol: Any) -> Array:
        """Return the second derivatives (n_atoms, n_atoms, 3, 3) in Hartree/Bohr^2, in the order of PySCF's methods."""
        (H,) = self.predictor.hessian(self._positions(mol))
        n = self.predictor.n_atoms
        return np.ascontiguousarray(H.reshape(n, 3, n, 3).transpose(0, 2, 1, 3)) * (self._e_unit / self._r_unit**2)

    def _positions(self, mol: Any) -> Array:
        """Return positions in the unit of the model; raise DataError unless the atoms are its own."""
        z = np.asarray(mol.atom_charges())
        if not np.array_equal(z, self.predictor.z):
            raise DataError(
                f"The atoms are {symbols_of(z)}, the model was trained on {symbols_of(self.predictor.z)}; it needs its "
                "own, in their order."
            )
        return np.asarray(mol.atom_coords(), dtype=np.float64).reshape(1, -1) / self._r_unit
