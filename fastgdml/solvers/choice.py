"""Closed form or iteration: which solver the training equations get, and why."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from ..descriptor import Array
from ..errors import InsufficientMemoryError, UsageError
from ..group import GroupTables
from ..progress import Callback, Step
from .cg import (
    STEPS,
    STEPS_AT_MOST,
    IterativeSolution,
    IterativeSolver,
    choose_n_columns,
    closed_form_seconds,
    expected_steps,
    iteration_seconds,
    least_columns,
)
from .machine import PROCESSOR, Machine

_log = logging.getLogger(__name__)

SOLVERS = ("auto", "closed", "cg")

# Up to this order the closed form takes seconds; comparing is not worth the while.
_SMALL_ORDER = 5000
# Columns are chosen to fill this share of the memory limit; temporary arrays of libraries take the rest.
_SHARE_OF_MEMORY = 0.9
# The estimate for the iteration, with the most steps it may need, must be below this share of that for the closed form.
_ADVANTAGE = 0.7
# An iteration that takes this many times the most steps that were expected is given up for the closed form.
_PATIENCE = 1.5


@dataclass(frozen=True)
class TrainingEquations:
    """(-K + lam I) x = y of a task; the fields are the arguments of the solvers."""

    R: Array
    R_desc: Array
    R_d_desc: Array
    tables: GroupTables
    sig: float
    lam: float
    y: Array
    y_E: Array | None
    periodic: bool
    n_threads: int

    @property
    def energies(self) -> bool:
        """Whether energies are constrained point by point."""
        return self.y_E is not None

    @property
    def order(self) -> int:
        """Order of the matrix of the closed form, without rigid motions."""
        n_train, n_atoms = self.R.shape[:2]
        return n_train * (max(3 * n_atoms - (3 if self.periodic else 6), 1) + int(self.energies))

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments that both solvers take."""
        names = ("R", "R_desc", "R_d_desc", "tables", "sig", "lam", "y", "y_E", "periodic", "n_threads")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class SolverOptions:
    """What the caller asked for.

    Attributes
    ----------
    solver : {'auto', 'closed', 'cg'}
        Which solver.
    tol : float
        Relative tolerance of the iteration.
    max_iter : int, optional
        Most steps of the iteration.
    max_memory : float, optional
        Limit in GB (2**30 bytes), of the memory of the machine; what is free by default.
    start : tuple, optional
        alphas_F, alphas_E and number of steps of an earlier run.
    columns : array_like of int, optional
        Columns of the preconditioner of an earlier run, in sgdml's order.
    """

    solver: str = "auto"
    tol: float = 1e-4
    max_iter: int | None = None
    max_memory: float | None = None
    start: tuple[Array, Array | None, int] | None = None
    columns: npt.ArrayLike | None = None

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise UsageError(f"solver must be one of {', '.join(SOLVERS)}; got {self.solver!r}.")
        if not 0 < self.tol < 1 or (self.max_iter is not None and self.max_iter < 1):
            raise UsageError(f"tol must be between 0 and 1 and max_iter positive; got {self.tol} and {self.max_iter}.")


@dataclass(frozen=True)
class Solution:
    """Coefficients, and how they were found.

    Attributes
    ----------
    solver_name : str
        'analytic' or 'cg', as in model files.
    reason : str
        Why this solver.
    alphas_F, alphas_E : ndarray
        Coefficients.
    lam : float
        Regularisation used.
    entries : dict
        What else a model file holds of an iterative solution, under sgdml's keys.
    """

    solver_name: str
    reason: str
    alphas_F: Array
    alphas_E: Array | None
    lam: float
    entries: dict[str, Any] = field(default_factory=dict)


def solve(
    equations: TrainingEquations,
    options: SolverOptions,
    callback: Callback | None = None,
    checkpoint: Callable[[Solution], None] | None = None,
    monitor: Callable[[Solution], bool] | None = None,
    machine: Machine = PROCESSOR,
) -> Solution:
    """Solve with the solver that is asked for; 'auto' takes the faster of those that fit the memory limit.

    Parameters
    ----------
    equations : TrainingEquations
        The equations.
    options : SolverOptions
        What is asked for.
    callback : callable, optional
        Progress; see `fastgdml.progress.Callback`.
    checkpoint, monitor : callable, optional
        See `IterativeSolver.solve`.
    machine : Machine
        Where to solve.

    Raises
    ------
    InsufficientMemoryError
        If the solver does not fit into the memory limit.
    SolverError
        If there is no solution.
    """
    n_train, n_atoms = equations.R.shape[:2]
    limit = machine.limit(options.max_memory)
    needed = machine.closed_form_memory(
        n_train, n_atoms, len(equations.tables.perm), equations.periodic, equations.energies
    )
    fits = needed <= limit
    memory = f"the closed form needs {needed / 2**30:.3g} GB, the limit{machine.of_memory} is {limit / 2**30:.3g} GB"
    small = equations.order <= _SMALL_ORDER
    if options.solver == "closed" or (options.solver == "auto" and fits and (small or not machine.compares)):
        if not fits:
            raise InsufficientMemoryError(
                f"For {n_train} points of {n_atoms} atoms {memory}. Use the iterative solver (solver='cg', --solver "
                "cg), fewer training points or a larger limit (max_memory, -m)."
            )
        _log.info("Memory: %s.", memory)
        reason = f"the matrix is small, of order {equations.order}" if small else memory
        return closed_form(equations, "asked for" if options.solver == "closed" else reason, callback, machine)

    iteration = IterativeSolver(**equations.arguments(), machine=machine)
    room = _SHARE_OF_MEMORY * limit - iteration.fixed_memory()
    columns = None
    if options.columns is not None:
        columns = iteration.columns_from_sgdml(options.columns)
        if machine.preconditioner_memory(n_train, iteration.n // n_train, len(columns)) > room:
            _log.info("The %d columns of the earlier run do not fit into the memory limit.", len(columns))
            columns = None
    free_to_choose = options.solver == "auto" and fits
    if columns is None:
        try:
            count = choose_n_columns(n_train, iteration.n // n_train, iteration.product, room, machine, options.tol)
        except InsufficientMemoryError:
            if not free_to_choose:
                raise InsufficientMemoryError(_least_limit(iteration, equations, limit, machine)) from None
            return closed_form(equations, memory, callback, machine)
        columns = iteration.choose_columns(count)

    max_iter, reason = options.max_iter, "asked for" if options.solver == "cg" else memory
    if free_to_choose:
        closed = closed_form_seconds(equations.order)
        likely, worst = (
            iteration_seconds(iteration.n, len(columns), iteration.product, steps=steps, tol=options.tol)
            for steps in (STEPS, STEPS_AT_MOST)
        )
        reason = f"on two cores, closed form about {closed:.2g} s, iteration {likely:.2g} to {worst:.2g} s"
        if worst > _ADVANTAGE * closed:
            del iteration
            return closed_form(equations, reason, callback, machine)
        patience = int(_PATIENCE * expected_steps(iteration.n, len(columns), options.tol, STEPS_AT_MOST))
        max_iter = patience if max_iter is None else min(max_iter, patience)
    _log.info("Iterative solver (conjugate gradients), %d of %d columns: %s.", len(columns), iteration.n, reason)

    def wrapped(found: IterativeSolution) -> Solution:
        return _iterative(found, reason, options.tol)

    found = iteration.solve(
        columns,
        options.tol,
        max_iter,
        options.start,
        callback,
        None if checkpoint is None else lambda found: checkpoint(wrapped(found)),
        None if monitor is None else lambda found: monitor(wrapped(found)),
    )
    if free_to_choose and not found.converged and max_iter != options.max_iter and found.steps == max_iter:
        _log.warning("The iteration takes longer than the closed form would: starting that instead.")
        return closed_form(equations, f"{reason}; the iteration was slower", callback, machine)
    if not found.converged:
        _log.warning(
            "The iteration stopped after %d steps with a relative residual of %.1e; %.0e was asked for. `resume` "
            "(create_task_from_model) goes on from there.",
            found.iterations,
            found.residual / found.norm_y,
            options.tol,
        )
    return wrapped(found)


def _least_limit(iteration: IterativeSolver, equations: TrainingEquations, limit: float, machine: Machine) -> str:
    """Return the message that says which limit would do for the iteration, rounded up to three digits."""
    n_train, n_atoms = equations.R.shape[:2]
    n_coord = iteration.n // n_train
    least = machine.preconditioner_memory(n_train, n_coord, least_columns(iteration.n, n_coord))
    needed = (least + iteration.fixed_memory()) / _SHARE_OF_MEMORY / 2**30
    digit = 10.0 ** (math.floor(math.log10(needed)) - 2)
    enough = f"{math.ceil(needed / digit) * digit:.6g}"
    return (
        f"For {n_train} points of {n_atoms} atoms the iterative solver needs a memory limit of at least {enough} GB; "
        f"the limit{machine.of_memory} is {limit / 2**30:.3g} GB. Use fewer training points or a larger limit "
        f"(max_memory={enough}, -m {enough})."
    )


def closed_form(
    equations: TrainingEquations, reason: str, callback: Callback | None = None, machine: Machine = PROCESSOR
) -> Solution:
    """Solve in closed form."""
    _log.info("Closed form: %s.", reason)
    assembling = Step(callback, "Assembling kernel matrix")
    solving: list[Step] = []

    def start_solving() -> None:
        assembling.done()
        solving.append(Step(callback, "Solving linear system (Cholesky factorization)"))

    found = machine.closed_form(**equations.arguments(), assembly_progress=assembling, on_solving=start_solving)
    solving[-1].done()
    return Solution("analytic", reason, found.alphas_F, found.alphas_E, found.lam)


def _iterative(found: IterativeSolution, reason: str, tol: float) -> Solution:
    entries = {
        "solver_tol": tol,
        "solver_iters": found.iterations,
        "solver_resid": found.residual,
        "norm_y_train": found.norm_y,
        "inducing_pts_idxs": found.inducing_columns,
    }
    return Solution("cg", reason, found.alphas_F, found.alphas_E, found.lam, entries)
