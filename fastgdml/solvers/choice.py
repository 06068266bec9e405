"""Closed form or iteration: which solver the training equations get, and why."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InsufficientMemoryError, UsageError
from ..progress import Callback, Step
from ..types import Array, IntArray
from .cholesky import solve_closed_form, solve_once
from .cost import closed_form_seconds
from .course import Course, Verdict
from .equations import TrainingEquations
from .folds import folds_of, leave_out
from .iterative import IterativeSolution, IterativeSolver, least_columns, numbers_of_columns
from .jackknife import Jackknife, groups_of, jackknife
from .machine import Machine

_log = logging.getLogger(__name__)

SOLVERS = ("auto", "closed", "cg")

# Up to this order the closed form takes less than a tenth of a second; an iteration is not worth the while.
_SMALL_ORDER = 2500
# Columns are chosen to fill this share of the memory limit; temporary arrays of libraries take the rest.
_SHARE_OF_MEMORY = 0.9
# The iteration is begun with as many columns as are built in this share of the time of the closed form; in the second
# if that is so many seconds at most, where to begin with few and to go on with more saves nothing.
_SHARE_OF_START = 0.07
_SHARE_OF_SHORT_START = 0.3
_SHORT_START = 0.25

# What is said of options that exclude each other.
STOPS_EARLY = (
    "An iteration that stops early (--early_stop, held_out) has no standard deviations (--std, n_std): its solutions "
    "without some of the points would have to stop alike. Leave out one of them."
)

# Steps without a fold of the points, which begin with the solution, as a share of those of the solution.
_STEPS_OF_FOLD = 0.5


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
    near : sequence of tuple
        alphas_F and alphas_E of solutions with other length scales, to begin the iteration with.
    n_std : int
        Samples for standard deviations; 0: none. An iteration makes one of each fold of the training points, and
        'auto' begins it only where the closed form does not fit, which costs less.
    std_groups : array_like of int, optional
        Training points with the same number are left out together.
    """

    solver: str = "auto"
    tol: float = 1e-4
    max_iter: int | None = None
    max_memory: float | None = None
    start: tuple[Array, Array | None, int] | None = None
    columns: npt.ArrayLike | None = None
    near: Sequence[tuple[Array, Array | None]] = ()
    n_std: int = 0
    std_groups: npt.ArrayLike | None = None

    def __post_init__(self) -> None:
        if self.n_std < 0 or self.n_std == 1:
            raise UsageError(f"n_std is {self.n_std}: 0 for no standard deviations, or at least 2, as 16.")
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
    course : Course, optional
        What decides how the iteration goes on; without it, it goes on as it is.
    """

    equations: TrainingEquations
    options: SolverOptions
    machine: Machine
    reason: str
    iteration: IterativeSolver | None = None
    columns: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    course: Course | None = None

    def memory(self, n_columns: int | None = None) -> int:
        """Return the bytes that it needs, by its estimate; with another number of columns, if one is given."""
        if self.iteration is None:
            return self.machine.closed_form_memory(self.equations, self.options.n_std > 0)
        n_train, n_coord = self.iteration.n_train, self.equations.training.n_coord
        k = len(self.columns) if n_columns is None else n_columns
        return self.iteration.fixed_memory() + self.machine.preconditioner_memory(n_train, n_coord, k)

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
    limit = machine.limit(options.max_memory)
    needed = machine.closed_form_memory(equations, options.n_std > 0)
    fits, folds_only = needed <= limit, options.n_std > 0 and not machine.inverts
    memory = f"the closed form needs {needed / 2**30:.3g} GB, the limit{machine.of_memory} is {limit / 2**30:.3g} GB"
    small = equations.order <= _SMALL_ORDER
    quick = small or options.n_std > 0 or not machine.compares
    if options.solver == "closed" and folds_only:
        raise UsageError(
            "Here standard deviations (n_std, --std) come from the iterative solver: solver 'auto' or 'cg', or "
            "backend='cpu' (--cpu)."
        )
    if options.solver == "closed" or (options.solver == "auto" and fits and quick and not folds_only):
        if not fits:
            training = equations.training
            raise InsufficientMemoryError(
                f"For {training.n_train} points of {training.n_atoms} atoms {memory}. Use the iterative solver "
                "(solver='cg', --solver cg), fewer training points or a larger limit (max_memory, -m)."
            )
        _log.info("Memory: %s.", memory)
        reason = f"the matrix is small, of order {equations.order}" if small else memory
        if options.solver == "closed":
            reason = "asked for"
        elif options.n_std:
            reason = f"standard deviations cost least with it; {memory}"
        return Plan(equations, options, machine, reason)

    iteration = IterativeSolver(equations, machine, options.near, options.n_std)
    free_to_choose = options.solver == "auto" and fits and not folds_only
    room = _SHARE_OF_MEMORY * limit - iteration.fixed_memory()
    n_train, n_coord = iteration.n_train, iteration.n // iteration.n_train
    try:
        counts = numbers_of_columns(n_train, n_coord, room, machine)
    except InsufficientMemoryError:
        if not free_to_choose:
            raise InsufficientMemoryError(_least_limit(iteration, equations, limit, machine)) from None
        return Plan(equations, options, machine, memory)
    reason = "asked for" if options.solver == "cg" else "standard deviations need it here" if folds_only else memory
    columns = _columns_of_earlier_run(iteration, options, machine, room)
    if columns is not None:
        return Plan(equations, options, machine, reason, iteration, columns)
    cost = iteration.cost
    solutions = 1 + _STEPS_OF_FOLD * options.n_std
    # Built once, for all solutions.
    n_columns = min(counts, key=lambda k: solutions * cost.total(k, options.tol) - (solutions - 1) * cost.building(k))
    closed = closed_form_seconds(equations.order, machine.rates) if free_to_choose else math.inf
    expected = n_columns
    if free_to_choose:
        reason, total = f"on two cores the closed form takes about {closed:.2g} s", cost.total(n_columns, options.tol)
        stake = max(_SHARE_OF_START * closed, min(_SHARE_OF_SHORT_START * closed, _SHORT_START))
        affordable = [k for k in counts if k <= n_columns and cost.building(k) <= stake]
        if not affordable or total > closed:
            return Plan(equations, options, machine, f"{reason}, an iteration perhaps {total:.2g} s")
        n_columns = affordable[-1]
    course = Course(cost, counts, n_columns, closed, expected)
    return Plan(equations, options, machine, reason, iteration, iteration.choose_columns(n_columns), course)


def _columns_of_earlier_run(
    iteration: IterativeSolver, options: SolverOptions, machine: Machine, room: float
) -> IntArray | None:
    """Return the columns of an earlier run, if there are any and they fit into `room`."""
    if options.columns is None:
        return None
    columns = iteration.columns_from_sgdml(options.columns)
    if machine.preconditioner_memory(iteration.n_train, iteration.n // iteration.n_train, len(columns)) <= room:
        return columns
    _log.info("The %d columns of the earlier run do not fit into the memory limit.", len(columns))
    return None


def run(
    plan: Plan,
    callback: Callback | None = None,
    checkpoint: Callable[[Solution], None] | None = None,
    monitor: Callable[[Solution], bool] | None = None,
) -> Solution:
    """Solve as planned. An iteration gets more columns, or gives way to the closed form, where that is faster.

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
    UsageError
        If groups for standard deviations are wrong, or they are wanted of an iteration with a monitor.
    """
    _log.info("%s", plan)
    if plan.iteration is None:
        return _closed_form_or_iteration(plan, callback, checkpoint, monitor)
    _log.info("Memory: the iteration needs %.3g GB.", plan.memory() / 2**30)
    options, course = plan.options, replace(plan.course) if plan.course is not None else None
    columns, start, reasons, steps = plan.columns, options.start, [plan.reason], 0
    folds = _folds_of(plan, monitor)
    best: IterativeSolution | None = None
    compared = course is not None and math.isfinite(course.closed_form)

    def wrapped(found: IterativeSolution) -> Solution:
        return _iterative(found, "; ".join(reasons), options.tol)

    while True:
        if course is not None:
            course.begin()
        found = plan.iteration.solve(
            columns,
            options.tol,
            None if options.max_iter is None else options.max_iter - steps,
            start,
            callback,
            None if checkpoint is None else lambda found: checkpoint(wrapped(found)),
            None if monitor is None else lambda found: monitor(wrapped(found)),
            None if course is None else course.review,
        )
        steps += found.steps
        best = found if best is None or found.residual <= best.residual else best
        if course is None or course.verdict is Verdict.GO_ON:
            break
        reviewed = _reviewed(course, steps, len(columns))
        _log.info("%s.", reviewed.capitalize())
        if compared:
            reasons.append(reviewed)
        if course.verdict is Verdict.CLOSED_FORM:
            exact = Plan(plan.equations, options, plan.machine, "; ".join(reasons))
            return _closed_form_or_iteration(exact, callback, checkpoint, monitor)
        columns = plan.iteration.choose_columns(course.n_columns)
        start = (found.alphas_F, found.alphas_E, found.iterations)
        _log.info("Memory: the iteration needs %.3g GB.", plan.memory(len(columns)) / 2**30)
    if not found.converged:
        found = replace(found, alphas_F=best.alphas_F, alphas_E=best.alphas_E, residual=best.residual)
        _log.warning(
            "The iteration stopped after %d steps with a relative residual of %.1e; %.0e was asked for. `resume` "
            "(create_task_from_model) goes on from there%s.",
            found.iterations,
            found.residual / found.norm_y,
            options.tol,
            "; until then there are no standard deviations" if folds else "",
        )
    if compared:
        reasons.append(f"the iteration took {steps} steps with {len(columns)} columns")
    solution = wrapped(found)
    if not folds or not found.converged:
        return solution
    if checkpoint is not None:  # who ends it now has the model, but for the samples
        checkpoint(solution)
    return replace(solution, jackknife=leave_out(plan.iteration, found, folds, options.tol, options.max_iter, callback))


def _folds_of(plan: Plan, monitor: Callable[[Solution], bool] | None) -> list[IntArray]:
    """Return the folds to leave out for standard deviations, if these are wanted.

    Raises
    ------
    UsageError
        If the groups are wrong, or the iteration may be stopped early.
    """
    if not plan.options.n_std:
        return []
    if monitor is not None:
        raise UsageError(STOPS_EARLY)
    groups = groups_of(plan.options.std_groups, plan.equations.training.n_train)
    return folds_of(groups, plan.options.n_std)


def _reviewed(course: Course, steps: int, n_columns: int) -> str:
    """Return what a look at the iteration said."""
    if course.verdict is Verdict.CLOSED_FORM:
        return f"after {steps} steps with {n_columns} columns the iteration had about {course.left:.2g} s left"
    return f"after {steps} steps with {n_columns} columns more were added: about {course.left:.2g} s left with those"


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


def _closed_form_or_iteration(
    plan: Plan,
    callback: Callback | None,
    checkpoint: Callable[[Solution], None] | None,
    monitor: Callable[[Solution], bool] | None,
) -> Solution:
    """Solve in closed form; 'auto' iterates if that turns out to need more memory than expected."""
    try:
        return _closed_form(plan, callback)
    except InsufficientMemoryError as error:
        if plan.options.solver != "auto":
            raise
        _log.info("%s", error)
    iterating = choose(plan.equations, replace(plan.options, solver="cg"), plan.machine)
    reason = f"{plan.reason}; but in double precision, which it needs, it does not fit"
    return run(replace(iterating, reason=reason), callback, checkpoint, monitor)


def _closed_form(plan: Plan, callback: Callback | None) -> Solution:
    assembling = Step(callback, "Assembling kernel matrix")
    solving: list[Step] = []

    def start_solving() -> None:
        assembling.done()
        solving.append(Step(callback, "Solving linear system (Cholesky factorization)"))

    if not plan.options.n_std:
        limit = plan.machine.limit(plan.options.max_memory)
        found = solve_once(plan.equations, plan.machine, assembling, start_solving, limit)
        solving[-1].done()
        return Solution("analytic", plan.reason, found.alphas_F, found.alphas_E, found.lam)
    factored = solve_closed_form(plan.equations, plan.machine, assembling, start_solving)
    solving[-1].done()
    sampling = Step(callback, "Leaving out training points (standard deviations)")
    groups = groups_of(plan.options.std_groups, plan.equations.training.n_train)
    samples = jackknife(factored, plan.options.n_std, groups)
    sampling.done()
    return Solution("analytic", plan.reason, factored.alphas_F, factored.alphas_E, factored.lam, jackknife=samples)


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
