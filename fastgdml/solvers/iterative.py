"""Iterative training: conjugate gradients on the matrix-free kernel, preconditioned by columns of some training points.

It needs memory for k columns of the kernel matrix instead of all n, and less time than the closed form for large
training sets. How many columns it begins with follows from a model of cost (`cost`), how it goes on from its rate of
convergence (`course`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InsufficientMemoryError, SolverError
from ..progress import Callback, Step
from ..threads import blas_threads
from ..types import Array, IntArray
from .conjugate_gradients import iterate
from .convergence import Convergence
from .cost import SHARES, Cost, column_counts
from .equations import TrainingEquations
from .machine import Machine, Preconditioner

# Of each inducing point a quarter of the coordinates is taken, of four times as many points: fewer steps for the same
# number of columns.
_COORDINATE_SHARE = 4
# Seconds between checkpoints.
CHECKPOINT_INTERVAL = 100.0
# Steps between looks at the errors on held-out points.
MONITOR_INTERVAL = 20


@dataclass(frozen=True)
class IterativeSolution:
    """Coefficients, and how far they have converged.

    Attributes
    ----------
    alphas_F : ndarray, shape (3 N M,)
        Coefficients of the force constraints.
    alphas_E : ndarray, shape (M,), or None
        Coefficients of the energy constraints, if there are any.
    lam : float
        Regularisation.
    iterations : int
        Steps taken, those of earlier runs included.
    steps : int
        Steps of this run.
    residual : float
        Norm of the residual.
    norm_y : float
        Norm of the labels.
    inducing_columns : ndarray of int64
        Columns of the preconditioner, in sgdml's order of rows (forces of all points, then energies).
    converged : bool
        Whether the residual is below the tolerance times `norm_y`.
    """

    alphas_F: Array
    alphas_E: Array | None
    lam: float
    iterations: int
    steps: int
    residual: float
    norm_y: float
    inducing_columns: IntArray
    converged: bool


def least_columns(n: int, n_coord: int) -> int:
    """Return the smallest number of columns that is considered, of n: those of one training point at least."""
    return min(n, max(n_coord, int(SHARES[0] * n)))


def numbers_of_columns(n_train: int, n_coord: int, max_bytes: float, machine: Machine) -> tuple[int, ...]:
    """Return the numbers of columns whose preconditioners fit into `max_bytes`, ascending.

    Raises
    ------
    InsufficientMemoryError
        If there is no memory for the columns of a single training point.
    """
    least = least_columns(n_train * n_coord, n_coord)
    counts = column_counts(n_train * n_coord, least)
    fitting = tuple(k for k in counts if machine.preconditioner_memory(n_train, n_coord, k) <= max_bytes)
    if not fitting:
        needed = machine.preconditioner_memory(n_train, n_coord, least)
        raise InsufficientMemoryError(
            f"The preconditioner for {n_train} points with {n_coord} labels each needs at least {needed / 2**30:.2g} "
            f"GB; the limit{machine.of_memory} leaves {max(max_bytes, 0) / 2**30:.2g} GB for it. Use fewer training "
            "points or a larger limit (max_memory, -m)."
        )
    return fitting


def choose_n_columns(cost: Cost, max_bytes: float, machine: Machine, tol: float = 1e-4) -> int:
    """Return the number of columns within `max_bytes` with which the iterative solver should begin.

    Raises
    ------
    InsufficientMemoryError
        If there is no memory for the columns of a single training point.
    """
    counts = numbers_of_columns(cost.n_train, cost.n_coord, max_bytes, machine)
    return min(counts, key=lambda k: (cost.total(k, tol), k))


class IterativeSolver:
    """Solves (-K + lam I) x = y iteratively; alpha = -x.

    Parameters
    ----------
    equations : TrainingEquations
        The equations.
    machine : Machine
        Where the iteration runs, its vectors included. Only the norm of the residual comes to the host at each step,
        and the solution at the end, for checkpoints, and for a monitor.
    near : sequence of tuple
        alphas_F and alphas_E of the same points with other length scales, to begin with.
    n_samples : int
        Samples that `folds.leave_out` is going to make of the solution: without any, the preconditioner goes when it
        is found.

    Attributes
    ----------
    equations : TrainingEquations
        The equations.
    machine : Machine
        Where the iteration runs.
    operator : Operator
        v -> K v, without K.
    n_train : int
        Number of training points.
    preconditioner : Preconditioner, optional
        That of the last solution, with `n_samples`.
    """

    def __init__(
        self,
        equations: TrainingEquations,
        machine: Machine,
        near: Sequence[tuple[Array, Array | None]] = (),
        n_samples: int = 0,
    ) -> None:
        self.equations, self.machine, self._lam = equations, machine, equations.lam
        training = self._training = equations.training
        self.n_train, self._n_force, self._n_coord = training.n_train, 3 * training.n_atoms, training.n_coord
        self._y, self._near, self._n_samples = equations.rigid_free, near, n_samples
        self._kept = equations.reduction.kept
        self.operator = machine.operator(training)
        self.preconditioner: Preconditioner | None = None

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return len(self._y)

    @property
    def product(self) -> float:
        """Operations of one product K v."""
        return float(self.operator.flops)

    @property
    def cost(self) -> Cost:
        """What preconditioners and steps cost."""
        training = self._training
        n_distinct, sig = training.tables.n_distinct, training.sig
        return Cost(self.n_train, self._n_coord, n_distinct, self.product, self.machine.rates, sig, self._lam)

    def fixed_memory(self) -> int:
        """Return the bytes that are needed whatever the number of columns; samples are held as vectors and J alpha."""
        samples = 8 * self._n_samples * (3 * self.n + self._training.x.size)
        return self.machine.iteration_memory(self._training) + samples

    @property
    def y(self) -> Any:
        """The labels, where the vectors are, shape (n,)."""
        return self.machine.xp.asarray(self._y)

    def product_with(self, v: Any) -> Any:
        """Return (-K + lam I) v, both where the vectors are."""
        return self._lam * v - self.operator(v)

    def vector(self, alphas_F: Array, alphas_E: Array | None) -> Any:
        """Return x of coefficients, where the vectors are."""
        return self.machine.xp.asarray(-self._by_point(alphas_F, alphas_E))

    def choose_columns(self, n_columns: int) -> IntArray:
        """Return about `n_columns` columns, a quarter of the coordinates of randomly chosen points, in the point order.

        The draw is the same for the same training set, and fewer columns are part of more: of all points in random
        order a quarter of the coordinates, then of all points the next quarter, and so on.
        """
        rng = np.random.default_rng(0)
        points = rng.permutation(self.n_train)
        orders = [rng.permutation(self._kept[i]) for i in points]
        quarters = [np.array_split(order, min(_COORDINATE_SHARE, len(order))) for order in orders]
        groups = [
            i * self._n_coord + quarter[turn]
            for turn in range(_COORDINATE_SHARE)
            for i, quarter in zip(points, quarters, strict=True)
            if turn < len(quarter)
        ]
        sizes = np.cumsum([len(group) for group in groups])
        n_groups = 1 + int(np.searchsorted(sizes, n_columns, side="right"))
        return np.sort(np.concatenate(groups[:n_groups])[: max(n_columns, 1)])

    def solve(
        self,
        columns: IntArray,
        tol: float = 1e-4,
        max_iter: int | None = None,
        start: tuple[Array, Array | None, int] | None = None,
        callback: Callback | None = None,
        checkpoint: Callable[[IterativeSolution], None] | None = None,
        monitor: Callable[[IterativeSolution], bool] | None = None,
        review: Callable[[Convergence], bool] | None = None,
    ) -> IterativeSolution:
        """Iterate until the residual is below `tol` times the norm of the labels.

        Parameters
        ----------
        columns : ndarray of int64
            Columns for the preconditioner, in the point order (3 N coordinates of a point, then its energy).
        tol : float
            Relative tolerance.
        max_iter : int, optional
            Most steps of this run; 10 n by default.
        start : tuple, optional
            alphas_F, alphas_E and number of steps of an earlier run. Without it, the iteration begins with the
            combination of near solutions that leaves the least residual, or with zero.
        callback : callable, optional
            Progress; see `fastgdml.progress.Callback`.
        checkpoint : callable, optional
            Receives the solution so far every CHECKPOINT_INTERVAL seconds, and on Ctrl-C before KeyboardInterrupt
            goes on.
        monitor : callable, optional
            Receives the solution so far every 20 steps; iteration stops when it returns True.
        review : callable, optional
            Receives the course of the residual after each step; when it returns True iteration stops, to go on from the
            solution that is returned.

        Returns
        -------
        IterativeSolution

        Raises
        ------
        SolverError
            If the preconditioner cannot be built or the iteration breaks down.
        """
        max_iter = 10 * self.n if max_iter is None else max_iter
        x0, earlier = self._starting_point(start)
        P = self._preconditioned(columns, callback)

        def solution(x: Any, residual: float, converged: bool = False) -> IterativeSolution:
            return IterativeSolution(
                *self.equations.split(-self.machine.to_host(x).reshape(self.n_train, -1)),
                self._lam,
                earlier + iterate_now.step,
                iterate_now.step,
                residual,
                norm_y,
                self._in_order_of_sgdml(columns),
                converged,
            )

        xp, norm_y = self.machine.xp, float(np.linalg.norm(self._y))
        step = Step(callback, "Solving linear system (conjugate gradients)", total=100)
        saved = began = time.perf_counter()
        first, reviewed = None, False
        with blas_threads(1):  # the products are ours; BLAS would only get in the way
            iterates = iterate(self.product_with, P, self.y, x0, xp)
            iterate_now = next(iterates)
            # The residual may rise before it falls; a run that is cut short returns the best iterate.
            best_x, best_residual = iterate_now.x.copy(), iterate_now.residual
            convergence = Convergence(best_residual, tol * norm_y)
            try:
                while True:
                    now = time.perf_counter()
                    relative = iterate_now.residual / norm_y
                    first = relative if first is None else first
                    if not np.isfinite(relative):
                        raise SolverError(
                            "Conjugate gradients broke down: the kernel matrix is singular to rounding errors. Use a "
                            "larger lambda or a smaller sigma, and check the dataset for duplicates."
                        )
                    if iterate_now.residual < best_residual:
                        best_x[...] = iterate_now.x
                        best_residual = iterate_now.residual
                    converged = relative <= tol
                    stop = converged or iterate_now.step >= max_iter
                    if not stop and monitor is not None and (earlier + iterate_now.step) % MONITOR_INTERVAL == 0:
                        stop = monitor(solution(iterate_now.x, iterate_now.residual))
                    if iterate_now.step:
                        convergence.record(iterate_now.energy)
                    if not stop and review is not None:
                        stop = reviewed = review(convergence)
                    if stop:
                        break
                    _report(step, iterate_now.step, relative, first, tol, now - began)
                    if checkpoint is not None and now - saved > CHECKPOINT_INTERVAL:
                        checkpoint(solution(iterate_now.x, iterate_now.residual))
                        saved = time.perf_counter()
                    iterate_now = next(iterates)
            except KeyboardInterrupt:
                if checkpoint is not None:
                    checkpoint(solution(iterate_now.x, iterate_now.residual))
                raise
        detail = f"{iterate_now.step} steps, residual {relative:.1e}, {time.perf_counter() - began:.1f} s"
        step.done(detail, warn=not converged and not reviewed)
        if reviewed:  # it goes on from here, where another preconditioner smoothes what is rough
            return solution(iterate_now.x, iterate_now.residual)
        return solution(best_x, best_residual, converged)

    def _preconditioned(self, columns: IntArray, callback: Callback | None) -> Preconditioner:
        """Build the preconditioner, and keep it for samples."""
        points, begin = np.unique(columns // self._n_coord, return_index=True)
        building = Step(callback, f"Building preconditioner ({len(columns)} of {self.n} columns)")
        coordinates = np.split(columns % self._n_coord, begin[1:])
        self.preconditioner = None  # its memory comes first
        P = self.machine.preconditioner(self._training, self._lam, points, coordinates, building)
        if self._n_samples:
            self.preconditioner = P
        building.done()
        return P

    def _starting_point(self, start: tuple[Array, Array | None, int] | None) -> tuple[Any, int]:
        """Return the vector to begin with, None for zero, and the number of steps that led to it."""
        xp = self.machine.xp
        if start is not None:
            return self.vector(*start[:2]), start[2]
        if not self._near:
            return None, 0
        # Coefficients of one length scale are a bad beginning for another, whatever their factor. But they depend
        # smoothly on it: two extrapolate, three interpolate to a residual of a few hundredths.
        tried = np.stack([-self._by_point(*alphas) for alphas in self._near], axis=1)
        images = np.empty_like(tried)
        for column, x in zip(images.T, tried.T, strict=True):
            column[...] = self.machine.to_host(self.product_with(xp.asarray(x)))
        with blas_threads(1):  # the bits of the result must not depend on their number
            found = tried @ np.linalg.lstsq(images, self._y, rcond=None)[0]
        return xp.asarray(found), 0

    def _by_point(self, alphas_F: Array, alphas_E: Array | None) -> Array:
        if not self._training.energies:
            alphas_E = None
        elif alphas_E is None:
            alphas_E = np.zeros(self.n_train)
        return self.equations.by_point(np.asarray(alphas_F, dtype=np.float64), alphas_E).ravel()

    def _in_order_of_sgdml(self, columns: IntArray) -> IntArray:
        points, coordinates = columns // self._n_coord, columns % self._n_coord
        last = self.n_train * self._n_force + points
        return np.where(coordinates < self._n_force, points * self._n_force + coordinates, last)

    def columns_from_sgdml(self, columns: npt.ArrayLike) -> IntArray:
        """Return columns in the point order, ascending, of columns in sgdml's order."""
        columns = np.unique(np.asarray(columns, dtype=np.int64))
        n_forces = self.n_train * self._n_force
        forces = columns[columns < n_forces]
        energies = columns[columns >= n_forces] - n_forces
        return np.sort(
            np.concatenate(
                [
                    forces // self._n_force * self._n_coord + forces % self._n_force,
                    energies * self._n_coord + self._n_force,
                ]
            )
        )


def _report(step: Step, number: int, relative: float, first: float, tol: float, elapsed: float) -> None:
    """Report progress: the logarithm of the residual falls about evenly."""
    share = np.log(first / relative) / np.log(first / tol) if relative < first else 0.0
    left = f", about {elapsed * (1 - share) / share:.0f} s left" if share > 0.05 else ""
    step(min(99, int(100 * share)), 100, f"step {number}, residual {relative:.1e}{left}")
