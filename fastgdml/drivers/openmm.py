"""A trained model as a force in OpenMM.

>>> from fastgdml.drivers.openmm import force
>>> system.addForce(force("model.npz"))
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

try:
    from openmm import PythonForce, State, System
    from openmm.app import Topology
    from openmm.app.topology import Atom
    from openmm.unit import dalton, nanometer
except ImportError as error:
    raise ImportError("The force for OpenMM needs OpenMM 8.6 or newer: pip install 'fastgdml[openmm]'") from error

from ..elements import MASSES, symbols_of
from ..errors import DataError, UsageError
from ..predict import GDMLPredict
from ..types import Array
from .common import AnyModel, open_model, require_cell, unit_sizes


def force(
    model: AnyModel,
    particles: Sequence[int] | None = None,
    e_unit: str | float | None = None,
    r_unit: str | float | None = None,
    max_processes: int | None = None,
    any_cell: bool = False,
    topology: Topology | None = None,
    system: System | None = None,
) -> PythonForce:
    """Return a force for `openmm.System.addForce`.

    Parameters
    ----------
    model : path-like, mapping or GDMLPredict
        Model file (npz or flat), a model as returned by `GDMLTrain.train` or `load_model`, or a predictor. A System can
        be serialized only if this is a file; it is read again from where it was.
    particles : sequence of int, optional
        Indices in the System of the model's atoms, in the order of the training set. All particles by default.
    e_unit, r_unit : str or float, optional
        Units of energy and length of the model: a name ("kcal/mol", "eV", "Ang", "Bohr", ...), or the size of the unit
        in kJ/mol or nm. By default those recorded in the model.
    max_processes : int, optional
        Number of threads. All by default.
    any_cell : bool
        Evaluate a model of a periodic system also in other boxes than the cell it was trained in; see
        `fastgdml.drivers.ase.FastGDMLCalculator`.
    topology : openmm.app.Topology, optional
        Where to compare the elements of the particles with those of the model. OpenMM's forces do not know elements, so
        without it, and without `system`, nothing is compared.
    system : openmm.System, optional
        The same by the masses of its particles: each must be within 0.5 Da of the standard mass of its element. Not for
        repartitioned masses or heavy hydrogen; give the topology.

    Returns
    -------
    openmm.PythonForce
        The whole interaction of these particles: remove other terms between them from the System.

    Raises
    ------
    UsageError
        If the units are neither recorded nor given, or unknown; if particles are not as many, different indices as the
        model has atoms.
    DataError
        If this is no model, or the particles are other elements than its atoms, or in another order.
    FileFormatError
        If a file cannot be read or is no model. When a System that was serialized is read, the first evaluation of the
        energy reports this.

    Notes
    -----
    During a simulation, an `openmm.OpenMMException` reports a System whose number of particles is not the model's, a
    box that is not the model's, and geometries that cannot be evaluated.

    A molecule must be whole: a model of a molecule takes the positions as they are. OpenMM wraps and scales whole
    molecules (its GPU platforms and barostats do), which to it are what bonds or constraints connect. Where a periodic
    System has neither between the model's atoms, connect them by bonds without strength: see docs/howto/openmm.md.
    """
    if isinstance(model, str | os.PathLike):
        model = os.path.abspath(model)  # a System may be read from another folder
    compute = _Computation(model, e_unit, r_unit, max_processes, any_cell)
    made = PythonForce(compute)
    made.setName("fastgdml")
    made.setUsesPeriodicBoundaryConditions(compute.periodic)
    indices = None
    if particles is not None:
        indices = [int(i) for i in particles]
        n_atoms = compute.predictor.n_atoms
        if len(indices) != n_atoms or len(set(indices)) != n_atoms or min(indices) < 0:
            raise UsageError(
                f"particles holds {len(indices)} indices, {len(set(indices))} of them different; the model has "
                f"{n_atoms} atoms: give the index of each, from 0."
            )
        made.setParticles(indices)
    if topology is not None:
        _require_elements(compute.predictor, indices, [_number_of(atom) for atom in topology.atoms()], "The topology")
    if system is not None:
        masses = [system.getParticleMass(i).value_in_unit(dalton) for i in range(system.getNumParticles())]
        _require_elements(compute.predictor, indices, [_number_of_mass(mass) for mass in masses], "The System")
    return made


def _number_of(atom: Atom) -> int:
    return 0 if atom.element is None else int(atom.element.atomic_number)


def _number_of_mass(mass: float) -> int:
    """Return the atomic number of the element with this mass, 0 for none."""
    number = int(np.argmin(np.abs(np.array(MASSES) - mass)))
    return number if abs(MASSES[number] - mass) <= 0.5 else 0


def _require_elements(predictor: GDMLPredict, indices: list[int] | None, numbers: list[int], what: str) -> None:
    """Raise DataError unless particles have the elements of the model, in its order."""
    chosen = list(range(len(numbers))) if indices is None else indices
    if len(chosen) != predictor.n_atoms or max(chosen) >= len(numbers):
        raise DataError(
            f"{what} has {len(numbers)} particles, the model {predictor.n_atoms} atoms: say which they are, "
            "force(model, particles=...)."
        )
    found = [numbers[i] for i in chosen]
    expected = [int(z) for z in predictor.z]
    if not any(expected) or found == expected:  # a model may not record its elements
        return
    unknown = [i for i, number in zip(chosen, found, strict=True) if number == 0]
    if unknown:
        raise DataError(
            f"{what} does not tell the element of particle {unknown[0]} (virtual sites have none, and masses may be "
            "repartitioned): give the topology."
        )
    raise DataError(
        f"{what} has {symbols_of(np.array(found))} where the model was trained on {symbols_of(predictor.z)}: "
        + (
            "give particles in the order of the training set."
            if sorted(found) == sorted(expected)
            else "these are other atoms."
        )
    )


class _Computation:
    """The function that OpenMM calls: energy in kJ/mol and forces in kJ/mol/nm of a State."""

    def __init__(
        self,
        model: AnyModel,
        e_unit: str | float | None,
        r_unit: str | float | None,
        max_processes: int | None,
        any_cell: bool,
    ) -> None:
        self._arguments = (model, e_unit, r_unit, max_processes, any_cell)
        self.predictor = open_model(model, max_processes)
        self._e_unit, self._r_unit = unit_sizes(self.predictor, e_unit, r_unit, "kJ/mol", "nm")
        self.periodic = self.predictor.periodic
        self._any_cell = any_cell

    def __call__(self, state: State) -> tuple[float, Array]:
        R = state.getPositions(asNumpy=True).value_in_unit(nanometer)
        if len(R) != self.predictor.n_atoms:
            raise DataError(
                f"The System has {len(R)} particles, the model {self.predictor.n_atoms} atoms: say which they are, "
                "force(model, particles=...)."
            )
        lattice = self._lattice_of(state) if self.periodic else None
        E, F = self.predictor.predict(R.reshape(1, -1) / self._r_unit, lattice=lattice)
        return float(E[0]) * self._e_unit, F.reshape(-1, 3) * (self._e_unit / self._r_unit)

    def _lattice_of(self, state: State) -> Array:
        """Return the box as columns, in the model's unit."""
        box: Array = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(nanometer)
        lattice = box.T / self._r_unit
        if not self._any_cell:
            require_cell(self.predictor, lattice, "The box")
        return lattice

    def __reduce__(self) -> tuple[Any, ...]:
        # OpenMM pickles this when the force is made; what cannot be pickled, cannot be serialized
        if not isinstance(self._arguments[0], str | os.PathLike):
            raise TypeError("Only the force of a model file can be serialized.")
        return _restored, self._arguments


class _Unusable:
    """Stands for a model that could not be read with its System, and says so when OpenMM wants its energy.

    An exception while it reads a System ends the process, because OpenMM does not expect any there.
    """

    def __init__(self, arguments: tuple[Any, ...], reason: Exception) -> None:
        self._arguments = arguments
        self._reason = reason

    def __call__(self, state: State) -> tuple[float, Array]:
        raise self._reason

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, self._arguments


def _restored(*arguments: Any) -> _Computation | _Unusable:
    try:
        return _Computation(*arguments)
    except Exception as error:  # whatever it is
        return _Unusable(arguments, error)
