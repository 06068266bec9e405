"""Iterative training: conjugate gradients on the matrix-free kernel, preconditioned by columns of some training points.

It needs memory for k columns of the kernel matrix instead of all n, and less time than the closed form for large
training sets. How many columns, and which solver is faster, follows from a model of cost (see `machine.Rates`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ..descriptor import Array, IntArray
from ..errors import InsufficientMemoryError, SolverError
from ..group import GroupTables
from ..progress import Callback, Step
from ..threads import resolve_n_threads
from .conjugate_gradients import iterate
from .machine import PROCESSOR, Machine, Rates
from .rigid import drop_rigid_motions, remove_rigid_motions

# Steps to a residual of 1e-4 are about this times n / k: 10 for ethanol, 45 to 60 for aspirin.
STEPS = 30.0
STEPS_AT_MOST = 60.0
# Shares of the columns that are considered.
_SHARES = np.geomspace(1 / 400, 1 / 3, 24)
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


def closed_form_seconds(n: int, rates: Rates = PROCESSOR.rates) -> float:
    """Return the time that the factorisation of a matrix of order n will take."""
    return n**3 / 3 / rates.blas


def expected_steps(n: int, k: int, tol: float, steps: float = STEPS) -> float:
    """Return the number of steps to the tolerance with k of n columns."""
    return steps * n / k * max(np.log10(1 / tol) / 4, 0.25)


def iteration_seconds(
    n: int, k: int, product: float, rates: Rates = PROCESSOR.rates, steps: float = STEPS, tol: float = 1e-4
) -> float:
    """Return the time that the iterative solver will take with k of n columns; a product K v takes `product` flops."""
    build = (2.0 * n * k**2 + k**3) / rates.blas
    step = product / rates.kernels + (2 * 4.0 * n * k + 2 * 8.0 * k**2) / rates.bytes
    return float(build + expected_steps(n, k, tol, steps) * step)


def least_columns(n: int, n_coord: int) -> int:
    """Return the smallest number of columns that is considered, of n: those of one training point at least."""
    return min(n, max(n_coord, int(_SHARES[0] * n)))


def choose_n_columns(
    n_train: int, n_coord: int, product: float, max_bytes: float, machine: Machine = PROCESSOR, tol: float = 1e-4
) -> int:
    """Return the number of columns that makes the iterative solver fastest within `max_bytes`.

    Raises
    ------
    InsufficientMemoryError
        If there is no memory for the columns of a single training point.
    """
    n = n_train * n_coord
    least = least_columns(n, n_coord)
    counts = [k for k in {least, *(int(share * n) for share in _SHARES)} if k >= least]
    fitting = [k for k in counts if machine.preconditioner_memory(n_train, n_coord, k) <= max_bytes]
    if not fitting:
        needed = machine.preconditioner_memory(n_train, n_coord, least)
        raise InsufficientMemoryError(
            f"The preconditioner for {n_train} points with {n_coord} labels each needs at least {needed / 2**30:.2g} "
            f"GB; the limit{machine.of_memory} leaves {max(max_bytes, 0) / 2**30:.2g} GB for it. Use fewer training "
            "points or a larger limit (max_memory, -m)."
        )
    return min(fitting, key=lambda k: (iteration_seconds(n, k, product, machine.rates, tol=tol), k))


class IterativeSolver:
    """Solves (-K + lam I) x = y iteratively; alpha = -x.

    Parameters
    ----------
    R : ndarray, shape (M, N, 3)
        Training geometries.
    R_desc, R_d_desc : ndarray, shapes (M, D) and (M, D, 3)
        Their descriptors and compressed Jacobians.
    tables : GroupTables
        The permutation group.
    sig, lam : float
        Length scale and regularisation.
    y : ndarray, shape (3 N M,)
        Scaled forces.
    periodic : bool
        Whether the descriptors were made with a lattice.
    n_threads : int, optional
        Number of threads, also of BLAS; all by default.
    y_E : ndarray, shape (M,), optional
        Scaled negative energies, to constrain energies point by point.
    machine : Machine
        Where K v and the preconditioner are computed. Vectors stay on the host: a step moves 4 n numbers, nothing
        beside the product.
    """

    def __init__(
        self,
        R: Array,
        R_desc: Array,
        R_d_desc: Array,
        tables: GroupTables,
        sig: float,
        lam: float,
        y: Array,
        periodic: bool = False,
        n_threads: int | None = None,
        y_E: Array | None = None,
        machine: Machine = PROCESSOR,
    ) -> None:
        self._machine = machine
        self._x, self._g, self._tables, self._sig, self._lam = R_desc, R_d_desc, tables, sig, lam
        self._n_threads = resolve_n_threads(n_threads)
        self._energies = y_E is not None
        self._n_train, self._n_force = len(R), 3 * R.shape[1]
        self._n_coord = self._n_force + int(self._energies)
        labels = remove_rigid_motions(R, y, periodic).reshape(len(R), -1)
        self._y = (labels if y_E is None else np.column_stack([labels, y_E])).ravel()
        with threadpool_limits(limits=1, user_api="blas"):
            self._kept = drop_rigid_motions(R, periodic, self._energies).kept
        self._K = machine.operator(R_desc, R_d_desc, tables, sig, self._energies, self._n_threads)

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return len(self._y)

    @property
    def product(self) -> float:
        """Operations of one product K v."""
        return float(self._K.flops)

    def fixed_memory(self) -> int:
        """Return the bytes that are needed whatever the number of columns.

        Descriptors, Jacobians, tiles, vectors, and what rigid motions are removed with.
        """
        return 8 * (6 * self._x.size + 12 * self.n + 6 * self.n * self._n_coord)

    def choose_columns(self, n_columns: int) -> IntArray:
        """Return about `n_columns` columns, a quarter of the coordinates of randomly chosen points, in the point order.

        The draw is the same for the same training set.
        """
        rng = np.random.default_rng(0)
        per_point = max(1, len(self._kept[0]) // _COORDINATE_SHARE)
        n_points = min(self._n_train, max(1, round(n_columns / per_point)))
        per_point = max(1, min(n_columns // n_points, len(self._kept[0])))
        points = np.sort(rng.choice(self._n_train, n_points, replace=False))
        chosen = [np.sort(rng.choice(self._kept[i], min(per_point, len(self._kept[i])), replace=False)) for i in points]
        return np.concatenate([i * self._n_coord + kept for i, kept in zip(points, chosen, strict=True)])

    def solve(
        self,
        columns: IntArray,
        tol: float = 1e-4,
        max_iter: int | None = None,
        start: tuple[Array, Array | None, int] | None = None,
        callback: Callback | None = None,
        checkpoint: Callable[[IterativeSolution], None] | None = None,
        monitor: Callable[[IterativeSolution], bool] | None = None,
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
            alphas_F, alphas_E and number of steps of an earlier run.
        callback : callable, optional
            Progress; see `fastgdml.progress.Callback`.
        checkpoint : callable, optional
            Receives the solution so far every CHECKPOINT_INTERVAL seconds, and on Ctrl-C before KeyboardInterrupt
            goes on.
        monitor : callable, optional
            Receives the solution so far every 20 steps; iteration stops when it returns True.

        Returns
        -------
        IterativeSolution

        Raises
        ------
        SolverError
            If the preconditioner cannot be built or the iteration breaks down.
        """
        max_iter = 10 * self.n if max_iter is None else max_iter
        points, begin = np.unique(columns // self._n_coord, return_index=True)
        building = Step(callback, f"Building preconditioner ({len(columns)} of {self.n} columns)")
        with threadpool_limits(limits=self._n_threads, user_api="blas"):
            P = self._machine.preconditioner(
                self._x,
                self._g,
                self._tables,
                self._sig,
                self._lam,
                points,
                np.split(columns % self._n_coord, begin[1:]),
                self._energies,
                self._n_threads,
                building,
            )
        building.done()

        def solution(x: Array, residual: float, converged: bool = False) -> IterativeSolution:
            alphas = -x.reshape(self._n_train, -1)
            return IterativeSolution(
                alphas[:, : self._n_force].ravel(),
                alphas[:, self._n_force].copy() if self._energies else None,
                self._lam,
                earlier + iterate_now.step,
                iterate_now.step,
                residual,
                norm_y,
                self._in_order_of_sgdml(columns),
                converged,
            )

        norm_y = float(np.linalg.norm(self._y))
        x0, earlier = self._starting_point(start)
        step = Step(callback, "Solving linear system (conjugate gradients)", total=100)
        saved = began = time.perf_counter()
        first = None
        with threadpool_limits(limits=1, user_api="blas"):  # the products are ours; BLAS would only get in the way
            iterates = iterate(lambda v: self._lam * v - self._K(v), P, self._y, x0)
            iterate_now = next(iterates)
            # The residual may rise before it falls; a run that is cut short returns the best iterate.
            best_x, best_residual = iterate_now.x.copy(), iterate_now.residual
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
                        np.copyto(best_x, iterate_now.x)
                        best_residual = iterate_now.residual
                    converged = relative <= tol
                    stop = converged or iterate_now.step >= max_iter
                    if not stop and monitor is not None and iterate_now.step % MONITOR_INTERVAL == 0:
                        stop = monitor(solution(iterate_now.x, iterate_now.residual))
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
        step.done(detail, warn=not converged)
        return solution(best_x, best_residual, converged)

    def _starting_point(self, start: tuple[Array, Array | None, int] | None) -> tuple[Array | None, int]:
        if start is None:
            return None, 0
        alphas_F, alphas_E, iterations = start
        parts = np.asarray(alphas_F, dtype=np.float64).reshape(self._n_train, -1)
        if self._energies:
            parts = np.column_stack([parts, np.zeros(self._n_train) if alphas_E is None else np.asarray(alphas_E)])
        return -parts.ravel(), iterations

    def _in_order_of_sgdml(self, columns: IntArray) -> IntArray:
        points, coordinates = columns // self._n_coord, columns % self._n_coord
        last = self._n_train * self._n_force + points
        return np.where(coordinates < self._n_force, points * self._n_force + coordinates, last)

    def columns_from_sgdml(self, columns: npt.ArrayLike) -> IntArray:
        """Return columns in the point order, ascending, of columns in sgdml's order."""
        columns = np.unique(np.asarray(columns, dtype=np.int64))
        n_forces = self._n_train * self._n_force
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
