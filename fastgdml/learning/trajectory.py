"""The trajectory that asks: Langevin dynamics of ASE with the model, in a state that can be kept and set."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FastGDMLError
from ..predict import GDMLPredict
from ..types import Array
from ..units import length_factor

# Two atoms nearer than this share of the sum of their covalent radii are in each other.
_CLOSEST = 0.5


class Trajectory:
    """Atoms at a temperature.

    Parameters
    ----------
    z : ndarray of int, shape (N,)
        Atomic numbers.
    lattice : ndarray, shape (3, 3), or None
        Lattice vectors as columns, in Angstrom.
    temperature : float
        In K.
    time_step : float
        In fs.
    friction : float
        In 1/fs.
    """

    def __init__(
        self,
        z: NDArray[np.integer[Any]],
        lattice: Array | None,
        temperature: float,
        time_step: float,
        friction: float,
    ) -> None:
        from ase import Atoms, units
        from ase.data import covalent_radii
        from ase.md.langevin import Langevin

        self.atoms = Atoms(z, np.zeros((len(z), 3)), cell=None if lattice is None else lattice.T)
        self.atoms.pbc = lattice is not None
        self._temperature = temperature
        self._random = np.random.default_rng(0)
        self._dynamics = Langevin(
            self.atoms,
            time_step * units.fs,
            temperature_K=temperature,
            friction=friction / units.fs,
            rng=self._random,
            fixcm=False,
        )
        radii = covalent_radii[self.atoms.numbers]
        self._pairs = np.triu_indices(len(z), 1)
        self._closest = _CLOSEST * (radii[:, None] + radii)[self._pairs]

    def follow(self, predictor: GDMLPredict) -> None:
        """Take the forces of a model from now on."""
        from ..drivers.ase import FastGDMLCalculator

        self._predictor = predictor
        self._size = length_factor(predictor.r_unit, "Ang")
        self.atoms.calc = FastGDMLCalculator(predictor)

    def set(self, R: Array, momenta: Array, random: str) -> None:
        """Go to positions (Angstrom), momenta and a state of the random numbers."""
        self.atoms.positions = R
        self.atoms.set_momenta(momenta)
        self._random.bit_generator.state = json.loads(random)

    def get(self) -> tuple[Array, Array, str]:
        """Return positions (Angstrom), momenta and the state of the random numbers."""
        state = json.dumps(self._random.bit_generator.state)
        return self.atoms.positions.copy(), self.atoms.get_momenta(), state

    def seed(self, seed: int) -> None:
        """Begin the random numbers."""
        self._random.bit_generator.state = np.random.default_rng(seed).bit_generator.state

    def displace(self, R: Array, size: float) -> None:
        """Move the atoms to R with normal random displacements of this standard deviation, in Angstrom."""
        self.atoms.positions = R + size * self._random.standard_normal(R.shape)

    def draw_momenta(self) -> None:
        """Draw the momenta of the temperature."""
        from ase import units

        masses = self.atoms.get_masses()[:, None]
        momenta = np.sqrt(masses * units.kB * self._temperature) * self._random.standard_normal((len(masses), 3))
        self.atoms.set_momenta(momenta - masses / masses.sum() * momenta.sum(axis=0))

    def run(self, n_steps: int) -> bool:
        """Take steps; False if the geometry cannot be evaluated any more."""
        try:
            with np.errstate(all="ignore"):
                self._dynamics.run(n_steps)
        except FastGDMLError:
            return False
        return self.is_whole()

    def is_whole(self) -> bool:
        """Return whether positions are finite and no atoms are in each other."""
        if not np.isfinite(self.atoms.positions).all():
            return False
        if self.atoms.pbc.any():
            distances = self.atoms.get_all_distances(mic=True)[self._pairs]
        else:
            a, b = self._pairs
            distances = np.linalg.norm(self.atoms.positions[a] - self.atoms.positions[b], axis=1)
        return bool((distances > self._closest).all())

    def look(self) -> tuple[float, Array, float]:
        """Return energy, forces (N, 3) and the largest standard deviation on an atom, in the model's units."""
        R = self.atoms.positions.reshape(1, -1) / self._size
        E, F, _, F_std = self._predictor.predict(R, return_std=True)
        return float(E[0]), F.reshape(-1, 3), float(F_std.max())
