"""Early stop of the iterative solver, by the force error on points that are not trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .cell import Cell
from .errors import UsageError
from .predict import GDMLPredict
from .solvers.choice import Solution

_log = logging.getLogger(__name__)


class EarlyStop:
    """Says when the force error on held-out points no longer falls: not by a thousandth in three looks.

    Those at the beginning do not count: with an ill-conditioned matrix the first steps lead away from the solution.

    Parameters
    ----------
    predictor_of : callable
        Returns the predictor of a solution.
    held_out : tuple of array_like
        Geometries and forces, shape (n, N, 3), and perhaps their lattice vectors, (3, 3) or (n, 3, 3), or None.
    n_atoms : int
        Number of atoms N of the training points.
    cell : Cell, optional
        Cell of the training points.

    Attributes
    ----------
    best : Solution, optional
        The one of the smallest error so far.

    Raises
    ------
    UsageError
        If the arrays do not fit each other or the training points, or lattice vectors are missing.
    """

    def __init__(
        self,
        predictor_of: Callable[[Solution], GDMLPredict],
        held_out: tuple[npt.ArrayLike, npt.ArrayLike] | tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike | None],
        n_atoms: int,
        cell: Cell | None,
    ) -> None:
        R, F, lattice = (*held_out, None)[:3]
        self._R, self._F = np.asarray(R, dtype=np.float64), np.asarray(F, dtype=np.float64)
        if self._R.shape != self._F.shape or self._R.shape[1:] != (n_atoms, 3) or len(self._R) == 0:
            raise UsageError(
                f"held_out must be geometries and forces of one shape (n, {n_atoms}, 3); got {self._R.shape}, "
                f"{self._F.shape}."
            )
        if lattice is None and cell is not None and cell.varies:
            raise UsageError("The training geometries have different lattices: held_out needs those of its geometries.")
        self._predictor_of, self._lattice = predictor_of, lattice
        self.best: Solution | None = None
        self._errors: list[float] = []
        self._looks = 0

    def __call__(self, solution: Solution) -> bool:
        """Look at the errors of a solution; return whether to stop."""
        (F,) = self._predictor_of(solution).predict(self._R, return_E=False, lattice=self._lattice)
        error = float(np.abs(F.reshape(self._F.shape) - self._F).mean())
        smallest = min(self._errors, default=np.inf)
        if error < smallest:
            self.best = solution
        if error < 0.999 * smallest:
            self._looks = 0
        elif smallest < self._errors[0]:
            self._looks += 1
        self._errors.append(error)
        if self.stopped:
            _log.info("The force error on held-out points no longer falls (MAE %.4g): stopping early.", smallest)
        return self.stopped

    @property
    def stopped(self) -> bool:
        """Whether it said to stop."""
        return self._looks >= 3
