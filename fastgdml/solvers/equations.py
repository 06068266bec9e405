"""The training equations of a task: (-K + lambda I) x = y, alpha = -x."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..threads import blas_threads
from ..training_set import TrainingSet
from ..types import Array
from .rigid import Reduction, count_independent, drop_rigid_motions, remove_rigid_motions


@dataclass(frozen=True)
class TrainingEquations:
    """What the solvers solve.

    Attributes
    ----------
    R : ndarray, shape (M, N, 3)
        Training geometries, whose rigid motions are removed from the equations.
    training : TrainingSet
        What K is made of.
    lam : float
        Regularisation.
    y : ndarray, shape (3 N M,)
        Scaled forces.
    y_E : ndarray, shape (M,), or None
        Scaled negative energies, if `training` has them as coordinates.
    periodic : bool
        Whether the descriptors were made with a lattice: only translations are rigid motions then.
    """

    R: Array
    training: TrainingSet
    lam: float
    y: Array
    y_E: Array | None = None
    periodic: bool = False

    @cached_property
    def reduction(self) -> Reduction:
        """The coordinates that are left without rigid motions."""
        with blas_threads(1):  # small matrices: threads would only wait
            return drop_rigid_motions(self.R, self.periodic, self.training.energies)

    @cached_property
    def rigid_free(self) -> Array:
        """The labels point by point, (n_coord M,), without the parts of the forces along rigid motions."""
        return self.by_point(remove_rigid_motions(self.R, self.y, self.periodic), self.y_E).ravel()

    @cached_property
    def n_independent(self) -> int:
        """How many labels are independent: all but rigid motions."""
        return count_independent(self.R, self.periodic, self.training.energies)

    def with_parameters(self, sig: float, lam: float) -> TrainingEquations:
        """Return the equations of the same points with another sigma and lambda; rigid motions are the same."""
        other = replace(self, training=replace(self.training, sig=sig), lam=lam)
        vars(other).update(reduction=self.reduction, rigid_free=self.rigid_free)
        return other

    @property
    def order(self) -> int:
        """Order of the matrix of the closed form, without rigid motions."""
        return self.reduction.rows.size

    def by_point(self, y: Array, y_E: Array | None) -> Array:
        """Return forces (3 N M,) and energies (M,) or None as one array, shape (M, n_coord)."""
        parts = y.reshape(self.training.n_train, -1)
        return parts if y_E is None else np.column_stack([parts, y_E])

    def split(self, by_point: Array) -> tuple[Array, Array | None]:
        """Return the parts of an array (M, n_coord): forces (3 N M,), and energies (M,) or None."""
        n_forces = 3 * self.training.n_atoms
        return by_point[:, :n_forces].ravel(), by_point[:, n_forces].copy() if self.training.energies else None
