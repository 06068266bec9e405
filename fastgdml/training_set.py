"""What the kernel matrix is made of: descriptors, Jacobians, permutations, a length scale.

One object goes through assembly, operator, preconditioner and solvers, on the processor and on a device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .cell import Cell
from .descriptor import from_R, n_atoms_of
from .group import GroupTables
from .types import Array


@dataclass(frozen=True)
class TrainingSet:
    """M training points of N atoms, D pairs of atoms.

    Attributes
    ----------
    x, g : ndarray, shapes (M, D) and (M, D, 3)
        Descriptors and compressed Jacobians (`fastgdml.descriptor.from_R`). For functions of `fastgdml.gpu` they may
        lie on the device.
    tables : GroupTables
        The permutation group.
    sig : float
        Length scale.
    energies : bool
        Whether a point has its energy as a coordinate, number 3 N, after the 3 N of its forces.
    """

    x: Array
    g: Array
    tables: GroupTables
    sig: float
    energies: bool = False

    @classmethod
    def from_R(
        cls,
        R: npt.ArrayLike,
        perms: npt.ArrayLike,
        sig: float,
        energies: bool = False,
        cell: Cell | None = None,
        n_threads: int | None = None,
        weights: Array | None = None,
    ) -> TrainingSet:
        """Make the set of geometries (M, N, 3) and permutations (P, N), perhaps with weights of pairs (D,).

        Raises
        ------
        DataError
            If a geometry has no descriptor, or a row of `perms` is no permutation.
        """
        x, g = from_R(R, cell, n_threads, weights)
        return cls(x, g, GroupTables.from_perms(perms), float(sig), bool(energies))

    @property
    def n_train(self) -> int:
        """M."""
        return len(self.x)

    @property
    def n_atoms(self) -> int:
        """N."""
        return n_atoms_of(self.x.shape[1])

    @property
    def n_perms(self) -> int:
        """Number of permutations."""
        return len(self.tables.perm)

    @property
    def n_coord(self) -> int:
        """Number of coordinates of a point: 3 N, or 3 N + 1 with energies."""
        return 3 * self.n_atoms + int(self.energies)

    def part(self, points: slice | npt.NDArray[np.integer]) -> TrainingSet:
        """Return the set of some of the points."""
        return replace(self, x=self.x[points], g=self.g[points])
