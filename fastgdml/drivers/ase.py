"""ASE calculator.

>>> from fastgdml.drivers.ase import FastGDMLCalculator
>>> atoms.calc = FastGDMLCalculator("model.npz")
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

try:
    from ase import Atoms, units
    from ase.calculators.calculator import BaseCalculator, all_changes, equal
    from ase.stress import full_3x3_to_voigt_6_stress
except ImportError as error:
    raise ImportError("The ASE calculator needs ASE: pip install 'fastgdml[ase]'") from error

from ..backend import resolve_backend
from ..elements import symbols_of
from ..errors import DataError, UsageError
from ..threads import resolve_n_threads
from .common import AnyModel, open_model, require_cell, unit_sizes

_log = logging.getLogger(__name__)


class FastGDMLCalculator(BaseCalculator):
    """Energy, forces and stress of a trained model for ASE.

    Parameters
    ----------
    model : path-like, mapping or GDMLPredict
        Model file (npz or flat), a model as returned by `GDMLTrain.train` or `load_model`, or a predictor.
    e_unit, r_unit : str or float, optional
        Units of energy and length of the model: a name ("kcal/mol", "eV", "Hartree", "Ang", "Bohr", ...), or the size
        of the unit in eV or Angstrom. By default those recorded in the model.
    max_processes : int, optional
        Number of threads. All by default.
    any_cell : bool
        Evaluate a model of a periodic system also in other cells than the one it was trained in. See Notes.
    backend : {'cpu', 'gpu', 'auto'}
        Where to predict; see `GDMLPredict`. For one geometry at a time the CPU is faster.
    std : bool
        Also calculate standard deviations, by a model that was trained with samples for them (`n_std`, ``--std 16``):
        ``results["energy_std"]`` in eV, and ``results["forces_std"]``, (n_atoms,) in eV/Angstrom, of a component of the
        force on each atom. A calculation takes 12 to 22 times as long.

    Attributes
    ----------
    predictor : GDMLPredict
        The model. Its `n_threads` may be changed.

    Raises
    ------
    UsageError
        If the units are neither recorded nor given, or unknown; if `max_processes` or `backend` is given for a
        GDMLPredict; if standard deviations are wanted of a model that has none.
    DataError
        If this is no model; in calculations, if the atoms or their cell are not those that the model was trained on.
    FileFormatError
        If a file cannot be read or is no model.

    Notes
    -----
    A model of a periodic system that was trained in one cell is evaluated in this cell, which may be turned; atoms in
    another cell are refused, and atoms without a cell are taken to be in the model's. With `any_cell` it follows the
    atoms' cell, as finite differences of the stress, elastic constants and relaxations of the cell need it. That is an
    extrapolation: the training forces say little about the response to strain, so check what comes of it. Models
    trained in several cells always follow the atoms' cell.

    The stress is (1/V) dE/d(strain), in eV/Angstrom^3, as ASE defines it. Models of molecules have none.

    A model of a molecule ignores the cell: the molecule must not be wrapped.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 (as ASE declares it)

    def __init__(
        self,
        model: AnyModel,
        e_unit: str | float | None = None,
        r_unit: str | float | None = None,
        max_processes: int | None = None,
        any_cell: bool = False,
        backend: str = "cpu",
        std: bool = False,
    ) -> None:
        super().__init__(use_cache=False)  # ASE's cache copies all of the atoms at every step
        self.predictor = open_model(model, max_processes, backend)
        self._std = std
        if std:
            self.predictor.require_std()
        self._units = (e_unit, r_unit)
        self._e_unit, self._r_unit = unit_sizes(self.predictor, e_unit, r_unit, "eV", "Ang")
        self._periodic = self.predictor.periodic
        self._own_lattice = self.predictor.lattice
        self._any_cell = any_cell
        if not self._periodic:
            self.implemented_properties = [name for name in self.implemented_properties if name != "stress"]
        self._lattice: np.ndarray | None = None
        self._volume = 0.0
        self._calculated: dict[str, bytes] | None = None

    def reset(self) -> None:
        """Forget the last calculation."""
        self.atoms = None
        self.results = {}
        self._calculated = None

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change parameters, as of ASE's calculators; what was calculated is forgotten.

        Parameters
        ----------
        **kwargs
            `e_unit`, `r_unit`, `max_processes`, `any_cell`: as of the constructor. Others, which calculators of ASE may
            have, are kept in `parameters`, and a warning says that they have no effect.

        Returns
        -------
        dict
            The parameters that have changed.

        Raises
        ------
        UsageError
            If a unit is unknown.
        """
        changed = {
            name: value
            for name, value in kwargs.items()
            if name not in self.parameters or not equal(value, self.parameters[name])
        }
        if not changed:
            return changed
        units_given = (changed.get("e_unit", self._units[0]), changed.get("r_unit", self._units[1]))
        self._e_unit, self._r_unit = unit_sizes(self.predictor, *units_given, "eV", "Ang")
        self._units = units_given
        self._any_cell = bool(changed.get("any_cell", self._any_cell))
        if "max_processes" in changed:
            self.predictor.n_threads = resolve_n_threads(changed["max_processes"])
        without = [name for name in changed if name not in ("e_unit", "r_unit", "any_cell", "max_processes")]
        if without:
            _log.warning("The calculator has no parameter %s: it is without effect.", ", ".join(without))
        self.parameters.update(changed)
        self.reset()
        return changed

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation: names of `ase.calculators.calculator.all_changes`.

        Only what the energy depends on is compared, exactly: positions, numbers, and the cell of a periodic model.
        """
        if self._calculated is None:
            return list(all_changes)
        state = self._state(atoms)
        return [name for name, before in self._calculated.items() if before != state[name]]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Calculate all properties of the atoms.

        Raises
        ------
        DataError
            If atoms, their order or their cell differ from the model's, or a geometry cannot be evaluated.
        """
        if atoms is None:
            raise UsageError("There is nothing to calculate yet: attach the calculator to atoms (atoms.calc = ...).")
        if self._calculated is None or list(system_changes) != ["positions"]:
            self._calculated = None  # until this calculation has succeeded
            self._require_same_atoms(atoms)
            if self._periodic:
                lattice = self._lattice_of(atoms)
                self._lattice = None if lattice is self._own_lattice else lattice  # None: prepared in the model
                self._volume = abs(np.linalg.det(lattice)) * self._r_unit**3
        R = atoms.positions.reshape(1, -1) / self._r_unit
        E, F, *more = self.predictor.predict(
            R, lattice=self._lattice, return_virial=self._periodic, return_std=self._std
        )
        energy = float(E[0]) * self._e_unit
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": F.reshape(-1, 3) * (self._e_unit / self._r_unit),
        }
        if self._periodic:
            self.results["stress"] = full_3x3_to_voigt_6_stress(more[0][0]) * (-self._e_unit / self._volume)
        if self._std:
            self.results["energy_std"] = float(more[-2][0]) * self._e_unit
            self.results["forces_std"] = more[-1][0] * (self._e_unit / self._r_unit)
        self._calculated = self._state(atoms)
        self.atoms = atoms

    def get_hessian(self, atoms: Atoms | None = None) -> np.ndarray:
        """Return the second derivatives of the energy, exactly.

        ``VibrationsData.from_2d(atoms, calc.get_hessian(atoms))`` are ASE's vibrations, of a periodic model its phonons
        at the Gamma point; ``Sella(atoms, hessian_function=calc.get_hessian)`` searches saddle points with it.

        Parameters
        ----------
        atoms : ase.Atoms, optional
            Those of the last calculation by default.

        Returns
        -------
        ndarray, shape (3 n_atoms, 3 n_atoms)
            In eV/Angstrom^2.

        Raises
        ------
        DataError
            As of `calculate`.
        """
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise UsageError("There is nothing to calculate yet: give atoms.")
        self._require_same_atoms(atoms)
        lattice = self._lattice_of(atoms) if self._periodic else None
        (H,) = self.predictor.hessian(atoms.positions / self._r_unit, lattice=lattice)
        return H * (self._e_unit / self._r_unit**2)

    def _state(self, atoms: Atoms) -> dict[str, bytes]:
        # the comparison of bytes is several times faster than that of arrays
        state = {"positions": atoms.positions.tobytes(), "numbers": atoms.numbers.tobytes()}
        if self._periodic:
            state["cell"] = atoms.cell.array.tobytes()
        return state

    def _require_same_atoms(self, atoms: Atoms) -> None:
        """Raise DataError unless the atoms are those of the model, in its order."""
        expected = self.predictor.z
        if not np.array_equal(atoms.numbers, expected):
            same_atoms = np.array_equal(np.sort(atoms.numbers), np.sort(expected))
            raise DataError(
                f"The atoms are {symbols_of(atoms.numbers)}, the model was trained on {symbols_of(expected)}. "
                + ("They must come in the order of the training set." if same_atoms else "It knows no other molecule.")
            )
        if not self._periodic and atoms.pbc.any():
            _log.warning(
                "The atoms have periodic boundary conditions, the model has none: it takes the positions as they "
                "are, so the molecule must not be wrapped into the cell."
            )

    def _lattice_of(self, atoms: Atoms) -> np.ndarray:
        """Return the lattice to predict in, as columns in the model's unit."""
        own = self._own_lattice
        if atoms.cell.rank == 0:
            if own is None:
                raise DataError("The atoms have no cell, and the model was trained in several: set atoms.cell.")
            return own
        lattice = atoms.cell.array.T / self._r_unit
        if own is not None and np.array_equal(lattice, own):
            return own
        if not self._any_cell:
            require_cell(self.predictor, lattice, "The cell of the atoms")
        return lattice


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
        Accepted for compatibility with sgdml; warns, and predicts on the GPU where there is one.
    *args, **kwargs
        Accepted for compatibility with ASE's `Calculator`; of these, `atoms` is used: the calculator is attached to it.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        E_to_eV: float = units.kcal / units.mol,
        F_to_eV_Ang: float = units.kcal / units.mol,
        use_torch: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        backend = resolve_backend("cpu", use_torch)
        super().__init__(model_path, e_unit=E_to_eV, r_unit=E_to_eV / F_to_eV_Ang, backend=backend)
        self.gdml_predict = self.predictor
        self.E_to_eV = E_to_eV
        self.F_to_eV_Ang = F_to_eV_Ang
        self.Ang_to_R = F_to_eV_Ang / E_to_eV
        self._warn_of_other_units()
        if kwargs.get("atoms") is not None:
            kwargs["atoms"].calc = self

    def _warn_of_other_units(self) -> None:
        try:
            e_unit, r_unit = unit_sizes(self.predictor, None, None, "eV", "Ang")
        except UsageError:  # the model records none, or unknown ones
            return
        if not np.allclose((e_unit, r_unit), (self._e_unit, self._r_unit), rtol=1e-3):
            _log.warning(
                "E_to_eV = %g and F_to_eV_Ang = %g (the defaults are kcal/mol and kcal/mol/Angstrom) contradict the "
                "units that the model records; by these they would be %g and %g.",
                self.E_to_eV,
                self.F_to_eV_Ang,
                e_unit,
                e_unit / r_unit,
            )
