"""Harmonic vibrations of a model at a minimum: frequencies, zero-point energy, thermochemistry, animated modes.

>>> from fastgdml.vibrations import vibrations
>>> found = vibrations("model.npz", "start.xyz")
>>> found.frequencies  # cm^-1
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .drivers.common import AnyModel, open_model
from .errors import DataError, UsageError
from .formats import ReadOptions
from .formats.frames import difference_of_atoms
from .npz import TEXT, replacing
from .predict import GDMLPredict
from .progress import Callback, Step
from .reading import Reader, UnitOptions
from .types import Array
from .units import length_factor

if TYPE_CHECKING:
    from ase import Atoms

# A molecule whose smallest moment of inertia is below this share of the largest is linear.
_LINEAR = 1e-4
# In cm/s.
_SPEED_OF_LIGHT = 2.99792458e10


@dataclass(frozen=True)
class VibrationOptions:
    """What to compute.

    Attributes
    ----------
    optimise : bool
        Move the atoms to the nearest minimum first.
    fmax : float
        Force on an atom at which the optimisation ends, in eV/Angstrom.
    steps : int
        Most steps of the optimisation.
    temperature, pressure : float
        Of the thermochemistry, in K and Pa.
    symmetry_number : int
        Symmetry number of the rotations of a molecule.
    spin : float
        Total electronic spin, 0 for a closed shell.
    max_processes : int or None
        Number of threads; all by default.
    """

    optimise: bool = True
    fmax: float = 1e-4
    steps: int = 2000
    temperature: float = 298.15
    pressure: float = 101325.0
    symmetry_number: int = 1
    spin: float = 0.0
    max_processes: int | None = None

    def __post_init__(self) -> None:
        if not (self.fmax > 0 and self.steps > 0 and self.temperature > 0 and self.pressure > 0):
            raise UsageError("fmax, steps, temperature and pressure must be positive.")
        if self.symmetry_number < 1 or self.spin < 0:
            raise UsageError("The symmetry number is at least 1, and the spin not negative.")


@dataclass(frozen=True)
class VibrationalModes:
    """Normal modes and what follows from them; energies in eV, lengths in Angstrom.

    Attributes
    ----------
    atoms : ase.Atoms
        The geometry, with the calculator of the model.
    energy : float
        Potential energy.
    fmax : float
        Largest force on an atom.
    hessian : ndarray, shape (3 N, 3 N)
        Second derivatives of the energy, eV/Angstrom^2.
    frequencies : ndarray, shape (n_modes,)
        Wavenumbers in cm^-1, ascending; imaginary ones negative. Motions of the whole are left out: six of a molecule,
        five of a linear one, three of a crystal.
    modes : ndarray, shape (n_modes, N, 3)
        Displacements, not weighted by mass, each of norm 1.
    shape : {'linear', 'nonlinear', 'periodic'}
        What the motions of the whole are.
    n_steps : int
        Steps of the optimisation.
    options : VibrationOptions
    """

    atoms: Atoms
    energy: float
    fmax: float
    hessian: Array
    frequencies: Array
    modes: Array
    shape: str
    n_steps: int
    options: VibrationOptions = field(default_factory=VibrationOptions)

    @property
    def n_imaginary(self) -> int:
        """Number of imaginary frequencies: 0 at a minimum, 1 at a saddle."""
        return int((self.frequencies < 0).sum())

    @property
    def energies(self) -> Array:
        """Energies of the quanta of the real modes, in eV."""
        from ase import units

        return self.frequencies[self.frequencies > 0] * units.invcm

    @property
    def zero_point_energy(self) -> float:
        """Half the sum of the quanta of the real modes, in eV."""
        return float(0.5 * self.energies.sum())

    def thermochemistry(self) -> dict[str, float] | None:
        """Return enthalpy, entropy and free energy by ASE: ideal gas of a molecule, harmonic modes of a crystal.

        Returns
        -------
        dict or None
            'temperature' (K), of a molecule 'pressure' (Pa), 'enthalpy' (eV; of a crystal 'internal_energy'), 'entropy'
            (eV/K), 'free_energy' (eV; of Gibbs, of a crystal of Helmholtz). Energies contain the potential energy and
            that of the zero point. None unless all frequencies are real.
        """
        if self.n_imaginary:
            return None
        from ase.thermochemistry import HarmonicThermo, IdealGasThermo

        o = self.options
        if self.shape == "periodic":
            harmonic = HarmonicThermo(list(self.energies), potentialenergy=self.energy)
            return {
                "temperature": o.temperature,
                "internal_energy": float(harmonic.get_internal_energy(o.temperature, verbose=False)),
                "entropy": float(harmonic.get_entropy(o.temperature, verbose=False)),
                "free_energy": float(harmonic.get_helmholtz_energy(o.temperature, verbose=False)),
            }
        gas = IdealGasThermo(
            vib_energies=list(self.energies),
            geometry="linear" if self.shape == "linear" else "nonlinear",
            potentialenergy=self.energy,
            atoms=self.atoms,
            symmetrynumber=o.symmetry_number,
            spin=o.spin,
        )
        return {
            "temperature": o.temperature,
            "pressure": o.pressure,
            "enthalpy": float(gas.get_enthalpy(o.temperature, verbose=False)),
            "entropy": float(gas.get_entropy(o.temperature, o.pressure, verbose=False)),
            "free_energy": float(gas.get_gibbs_energy(o.temperature, o.pressure, verbose=False)),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return all results as plain numbers and lists, for JSON."""
        return {
            "symbols": self.atoms.get_chemical_symbols(),
            "positions": self.atoms.positions.tolist(),
            "cell": self.atoms.cell.array.tolist() if self.shape == "periodic" else None,
            "energy": self.energy,
            "fmax": self.fmax,
            "n_steps": self.n_steps,
            "shape": self.shape,
            "frequencies": self.frequencies.tolist(),
            "zero_point_energy": self.zero_point_energy,
            "thermochemistry": self.thermochemistry(),
            "modes": self.modes.tolist(),
            "units": {"energy": "eV", "length": "Angstrom", "frequency": "cm^-1"},
        }

    def write_modes(self, path: str | os.PathLike[str], amplitude: float = 0.3, n_frames: int = 20) -> None:
        """Write one period of each mode as extended XYZ, `n_frames` a mode; comments name `mode` and `frequency`.

        Parameters
        ----------
        path : path-like
            The file; a text file is replaced.
        amplitude : float
            Largest displacement of an atom, in Angstrom.
        n_frames : int
            Frames of one period.

        Raises
        ------
        FileFormatError
            If there is a file of another kind, or the file cannot be written.
        """
        frames = []
        for number, (frequency, mode) in enumerate(zip(self.frequencies, self.modes, strict=True)):
            largest = np.linalg.norm(mode, axis=1).max()
            for phase in 2 * np.pi * np.arange(n_frames) / n_frames:
                frame = self._copy()
                frame.positions += amplitude * np.sin(phase) / largest * mode
                frame.info |= {"mode": number, "frequency": float(frequency), "frequency_unit": "cm^-1"}
                frames.append(frame)
        _write_xyz(path, frames)

    def write_geometry(self, path: str | os.PathLike[str]) -> None:
        """Write the geometry as extended XYZ, with the energy (eV) and forces (eV/Ang); errors as `write_modes`."""
        frame = self._copy()
        frame.info["energy"] = self.energy
        frame.arrays["forces"] = self.atoms.get_forces()
        _write_xyz(path, [frame])

    def _copy(self) -> Atoms:
        atoms = self.atoms.copy()
        atoms.calc = None
        atoms.info.clear()
        return atoms


def vibrations(
    model: AnyModel,
    geometry: str | os.PathLike[str] | Atoms,
    options: VibrationOptions | None = None,
    callback: Callback | None = None,
) -> VibrationalModes:
    """Compute harmonic vibrations from exact second derivatives.

    Parameters
    ----------
    model : path-like, mapping or GDMLPredict
        The model.
    geometry : path-like or ase.Atoms
        Where to start: a file of any format that fastgdml reads, of which the first frame is taken, or atoms. Lengths
        of files that record no unit are in that of the model.
    options : VibrationOptions, optional
        What to compute.
    callback : callable, optional
        Progress; see `fastgdml.progress.Callback`.

    Raises
    ------
    DataError
        If the atoms or the cell are not those of the model, or the optimisation does not end.
    FileFormatError
        If a file cannot be read.
    UsageError
        If ASE is missing, or the model does not record its units.
    """
    options = options or VibrationOptions()
    try:
        from .drivers.ase import FastGDMLCalculator
    except ImportError as error:
        raise UsageError(str(error)) from None
    predictor = open_model(model, options.max_processes)
    atoms = _atoms_of(predictor, geometry) if isinstance(geometry, str | os.PathLike) else geometry.copy()
    atoms.calc = FastGDMLCalculator(predictor)
    n_steps = _optimise(atoms, options, callback) if options.optimise else 0
    shape = "periodic" if predictor.periodic else "linear" if _is_linear(atoms) else "nonlinear"
    hessian = atoms.calc.get_hessian(atoms)
    frequencies, modes = normal_modes(atoms, hessian, shape)
    fmax = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    energy = float(atoms.get_potential_energy())
    return VibrationalModes(atoms, energy, fmax, hessian, frequencies, modes, shape, n_steps, options)


def normal_modes(atoms: Atoms, hessian: Array, shape: str) -> tuple[Array, Array]:
    """Return wavenumbers (cm^-1, imaginary ones negative) and displacements (n_modes, N, 3) of norm 1.

    Motions of the whole are projected out of the Hessian weighted by masses, H_ij / sqrt(m_i m_j), in which they are
    orthogonal to all others at a stationary point (Eckart's conditions), and nearly so elsewhere.

    Parameters
    ----------
    atoms : ase.Atoms
        Positions and masses.
    hessian : ndarray, shape (3 N, 3 N)
        In eV/Angstrom^2.
    shape : {'linear', 'nonlinear', 'periodic'}
        Which motions of the whole there are.
    """
    from ase import units

    masses = atoms.get_masses()
    weights = np.repeat(masses, 3) ** 0.5
    n_rigid = {"periodic": 3, "linear": 5, "nonlinear": 6}[shape]
    r = atoms.positions - masses @ atoms.positions / masses.sum()
    turns = [np.cross(axis, r).ravel() for axis in np.eye(3)] if shape != "periodic" else []
    rigid = weights[:, None] * np.column_stack([np.tile(np.eye(3), (len(atoms), 1)), *turns])
    left, _, _ = np.linalg.svd(rigid)
    internal = left[:, n_rigid:]
    curvature, vectors = np.linalg.eigh(internal.T @ (hessian / np.outer(weights, weights)) @ internal)
    # omega = sqrt(curvature) in sqrt(eV / (A^2 u)), ASE's inverse unit of time; then omega / (2 pi c)
    wavenumber = units.second / (2 * np.pi * _SPEED_OF_LIGHT)
    modes = (internal @ vectors / weights[:, None]).T
    modes /= np.linalg.norm(modes, axis=1)[:, None]
    return wavenumber * np.sign(curvature) * np.sqrt(np.abs(curvature)), modes.reshape(len(modes), len(atoms), 3)


def _atoms_of(predictor: GDMLPredict, source: str | os.PathLike[str]) -> Atoms:
    """Return the first frame of a source, in Angstrom."""
    from ase import Atoms

    units = UnitOptions(assumed_r_unit=predictor.r_unit or None)
    reader = Reader([source], ReadOptions(use_E=False, use_F=False), units)
    try:
        frames = next(reader.chunks(), None)
    finally:
        reader.close()
    if frames is None or not len(frames):
        raise DataError(f"{os.fspath(source)} holds no geometry.")
    if not np.array_equal(frames.z, predictor.z):
        raise DataError(f"{os.fspath(source)}: {difference_of_atoms(predictor.z, frames.z)}, as the model has them.")
    size = length_factor(reader.facts.r_unit or "Ang", "Ang")
    atoms = Atoms(frames.z, frames.R[0] * size)
    if predictor.periodic and frames.lattice is not None:
        atoms.cell, atoms.pbc = frames.lattice[0].T * size, True
    elif predictor.periodic and predictor.lattice is not None:
        atoms.cell, atoms.pbc = predictor.lattice.T * length_factor(predictor.r_unit, "Ang"), True
    return atoms


def _optimise(atoms: Atoms, options: VibrationOptions, callback: Callback | None) -> int:
    from ase.optimize import BFGS

    step = Step(callback, "Optimising the geometry")
    optimiser = BFGS(atoms, logfile=None)
    # Steps of at most 0.1 Angstrom: models know nothing far from their training points.
    optimiser.maxstep = 0.1
    if not optimiser.run(fmax=options.fmax, steps=options.steps):
        force = np.linalg.norm(atoms.get_forces(), axis=1).max()
        raise DataError(
            f"The optimisation did not end within {options.steps} steps: the largest force is {force:.3g} eV/Ang. "
            "Start nearer to a minimum, allow more steps or a larger force, or leave out the optimisation."
        )
    step.done(f"{optimiser.nsteps} steps")
    return int(optimiser.nsteps)


def _is_linear(atoms: Atoms) -> bool:
    moments = atoms.get_moments_of_inertia()
    return bool(moments[0] <= _LINEAR * moments[-1])


def _write_xyz(path: str | os.PathLike[str], frames: list[Atoms]) -> None:
    from ase.io import write

    text = io.StringIO()
    write(text, frames, format="extxyz")
    with replacing(path, TEXT) as file:
        file.write(text.getvalue().encode())
