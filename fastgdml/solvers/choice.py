"""Closed form or iteration: which solver the training equations get, and why."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InsufficientMemoryError, UsageError
from ..progress import Callback, Step
from ..types import Array, IntArray
from .cholesky import solve_closed_form
from .cost import STEPS, STEPS_AT_MOST, closed_form_seconds, expected_steps, iteration_seconds
from .equations import TrainingEquations
from .iterative import IterativeSolution, IterativeSolver, choose_n_columns, least_columns
from .jackknife import Jackknife, groups_of, jackknife
from .machine import Machine

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
    n_std : int
        Samples for standard deviations, which need the closed form; 0: none.
    std_groups : array_like of int, optional
        Training points with the same number are left out together.
    """

    solver: str = "auto"
    tol: float = 1e-4
    max_iter: int | None = None
    max_memory: float | None = None
    start: tuple[Array, Array | None, int] | None = None
    columns: npt.ArrayLike | None = None
    n_std: int = 0
    std_groups: npt.ArrayLike | None = None

    def __post_init__(self) -> None:
        if self.n_std < 0 or self.n_std == 1:
            raise UsageError(f"n_std is {self.n_std}: 0 for no standard deviations, or at least 2, as 16.")
        if self.n_std and self.solver == "cg":
            raise UsageError("Standard deviations (n_std, --std) need the closed form: solver='closed' or 'auto'.")
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
    converged : bool
        Whether the residual is below the tolerance.
    jackknife : Jackknife, optional
        Samples for standard deviations.
    """

    solver_name: str
    reason: str
    alphas_F: Array
    alphas_E: Array | None
    lam: float
    entries: dict[str, Any] = field(default_factory=dict)
    converged: bool = True
    jackknife: Jackknife | None = None

    @property
    def is_exact(self) -> bool:
        """Whether the equations were solved in closed form."""
        return self.solver_name == "analytic"


@dataclass(frozen=True)
class Plan:
    """How equations are going to be solved, and why; ``str(plan)`` says it in a sentence. `run` carries it out.

    Attributes
    ----------
    equations : TrainingEquations
        The equations.
    options : SolverOptions
        What is asked for.
    machine : Machine
        Where.
    reason : str
        Why this solver.
    iteration : IterativeSolver, optional
        The iteration that is planned, without one the closed form.
    columns : ndarray of int64
        Columns of its preconditioner, in the point order.
    patience : int, optional
        Steps after which the iteration is given up for the closed form; None: never.
    """

    equations: TrainingEquations
    options: SolverOptions
    machine: Machine
    reason: str
    iteration: IterativeSolver | None = None
    columns: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    patience: int | None = None

    def __str__(self) -> str:
        if self.iteration is None:
            return f"Closed form: {self.reason}."
        k, n = len(self.columns), self.iteration.n
        return f"Iterative solver (conjugate gradients), {k} of {n} columns: {self.reason}."


def choose(equations: TrainingEquations, options: SolverOptions, machine: Machine) -> Plan:
    """Choose the solver: that which is asked for; 'auto' takes the faster of those that fit the memory limit.

    Parameters
    ----------
    equations : TrainingEquations
        The equations.
    options : SolverOptions
        What is asked for.
    machine : Machine
        Where to solve.

    Raises
    ------
    InsufficientMemoryError
        If the solver does not fit into the memory limit.
    """
    limit, needed = machine.limit(options.max_memory), machine.closed_form_memory(equations)
    fits = needed <= limit
    memory = f"the closed form needs {needed / 2**30:.3g} GB, the limit{machine.of_memory} is {limit / 2**30:.3g} GB"
    small = equations.order <= _SMALL_ORDER
    quick = options.solver == "auto" and fits and (small or not machine.compares)
    if options.solver == "closed" or options.n_std or quick:
        if not fits:
            training = equations.training
            other = "no standard deviations" if options.n_std else "the iterative solver (solver='cg', --solver cg)"
            raise InsufficientMemoryError(
                f"For {training.n_train} points of {training.n_atoms} atoms {memory}. Use {other}, "
                "fewer training points or a larger limit (max_memory, -m)."
            )
        _log.info("Memory: %s.", memory)
        reason = f"the matrix is small, of order {equations.order}" if small else memory
        if options.solver == "closed":
            reason = "asked for"
        elif options.n_std:
            reason = "standard deviations need it"
        return Plan(equations, options, machine, reason)

    closed = Plan(equations, options, machine, memory)
    iteration = IterativeSolver(equations, machine)
    free_to_choose = options.solver == "auto" and fits
    try:
        columns = _columns(iteration, options, machine, _SHARE_OF_MEMORY * limit - iteration.fixed_memory())
    except InsufficientMemoryError:
        if not free_to_choose:
            raise InsufficientMemoryError(_least_limit(iteration, equations, limit, machine)) from None
        return closed
    planned = replace(closed, iteration=iteration, columns=columns)
    if free_to_choose:
        return _compared(planned, iteration)
    return replace(planned, reason="asked for") if options.solver == "cg" else planned


def _columns(iteration: IterativeSolver, options: SolverOptions, machine: Machine, room: float) -> IntArray:
    """Return the columns of the preconditioner: those of an earlier run, if there are any and they fit into `room`."""
    n_train, n_coord = iteration.n_train, iteration.n // iteration.n_train
    if options.columns is not None:
        columns = iteration.columns_from_sgdml(options.columns)
        if machine.preconditioner_memory(n_train, n_coord, len(columns)) <= room:
            return columns
        _log.info("The %d columns of the earlier run do not fit into the memory limit.", len(columns))
    count = choose_n_columns(n_train, n_coord, iteration.product, room, machine, options.tol)
    return iteration.choose_columns(count)


def _compared(planned: Plan, iteration: IterativeSolver) -> Plan:
    """Return the plan of an iteration, or that of the closed form if it will not take much longer."""
    n, k, rates, tol = iteration.n, len(planned.columns), planned.machine.rates, planned.options.tol
    closed = closed_form_seconds(planned.equations.order, rates)
    likely, worst = (iteration_seconds(n, k, iteration.product, rates, steps, tol) for steps in (STEPS, STEPS_AT_MOST))
    reason = f"on two cores, closed form about {closed:.2g} s, iteration {likely:.2g} to {worst:.2g} s"
    if worst > _ADVANTAGE * closed:
        return Plan(planned.equations, planned.options, planned.machine, reason)
    return replace(planned, reason=reason, patience=int(_PATIENCE * expected_steps(n, k, tol, STEPS_AT_MOST)))


def run(
    plan: Plan,
    callback: Callback | None = None,
    checkpoint: Callable[[Solution], None] | None = None,
    monitor: Callable[[Solution], bool] | None = None,
) -> Solution:
    """Solve as planned. An iteration that takes longer than its plan allows gives way to the closed form.

    Parameters
    ----------
    plan : Plan
        From `choose`.
    callback : callable, optional
        Progress; see `fastgdml.progress.Callback`.
    checkpoint, monitor : callable, optional
        See `IterativeSolver.solve`.

    Raises
    ------
    SolverError
        If there is no solution.
    """
    _log.info("%s", plan)
    if plan.iteration is None:
        return _closed_form(plan, callback)
    options, reason, limits = plan.options, plan.reason, (plan.options.max_iter, plan.patience)
    max_iter = min((limit for limit in limits if limit is not None), default=None)

    def wrapped(found: IterativeSolution) -> Solution:
        return _iterative(found, reason, options.tol)

    found = plan.iteration.solve(
        plan.columns,
        options.tol,
        max_iter,
        options.start,
        callback,
        None if checkpoint is None else lambda found: checkpoint(wrapped(found)),
        None if monitor is None else lambda found: monitor(wrapped(found)),
    )
    if plan.patience is not None and not found.converged and max_iter != options.max_iter and found.steps == max_iter:
        _log.warning("The iteration takes longer than the closed form would: starting that instead.")
        closed = Plan(plan.equations, options, plan.machine, f"{reason}; the iteration was slower")
        _log.info("%s", closed)
        return _closed_form(closed, callback)
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
    n_train, n_coord = iteration.n_train, equations.training.n_coord
    least = machine.preconditioner_memory(n_train, n_coord, least_columns(iteration.n, n_coord))
    needed = (least + iteration.fixed_memory()) / _SHARE_OF_MEMORY / 2**30
    digit = 10.0 ** (math.floor(math.log10(needed)) - 2)
    enough = f"{math.ceil(needed / digit) * digit:.6g}"
    return (
        f"For {n_train} points of {equations.training.n_atoms} atoms the iterative solver needs a memory limit of at "
        f"least {enough} GB; the limit{machine.of_memory} is {limit / 2**30:.3g} GB. Use fewer training points or a "
        f"larger limit (max_memory={enough}, -m {enough})."
    )


def _closed_form(plan: Plan, callback: Callback | None) -> Solution:
    assembling = Step(callback, "Assembling kernel matrix")
    solving: list[Step] = []

    def start_solving() -> None:
        assembling.done()
        solving.append(Step(callback, "Solving linear system (Cholesky factorization)"))

    found = solve_closed_form(plan.equations, plan.machine, assembling, start_solving)
    solving[-1].done()
    samples = None
    if plan.options.n_std:
        sampling = Step(callback, "Leaving out training points (standard deviations)")
        groups = groups_of(plan.options.std_groups, plan.equations.training.n_train)
        samples = jackknife(found, plan.options.n_std, groups)
        sampling.done()
    return Solution("analytic", plan.reason, found.alphas_F, found.alphas_E, found.lam, jackknife=samples)


def _iterative(found: IterativeSolution, reason: str, tol: float) -> Solution:
    entries = {
        "solver_tol": tol,
        "solver_iters": found.iterations,
        "solver_resid": found.residual,
        "norm_y_train": found.norm_y,
        "inducing_pts_idxs": found.inducing_columns,
    }
    converged = found.residual <= tol * found.norm_y
    return Solution("cg", reason, found.alphas_F, found.alphas_E, found.lam, entries, converged)
