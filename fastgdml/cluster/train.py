"""Trainings whose rows are divided among the workers of a cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InsufficientMemoryError, UsageError
from ..progress import Callback
from ..search_jobs import Trainer
from ..solvers.choice import Plan, Solution, SolverOptions, choose, run
from ..solvers.equations import TrainingEquations
from ..train import GDMLTrain
from .connection import Cluster
from .machine import ClusterMachine
from .plan import plan_text

_log = logging.getLogger(__name__)


class ClusterTrain(GDMLTrain):
    """Trains as `GDMLTrain` does, by conjugate gradients whose rows are divided among the workers of a cluster.

    Parameters
    ----------
    cluster : Cluster
        From `connect`.
    max_memory : float, optional
        Most memory of a worker, in GB (2**30 bytes); by default what it has free.
    max_processes : int, optional
        Most threads of a worker; by default all that it has.
    """

    def __init__(self, cluster: Cluster, max_memory: float | None = None, max_processes: int | None = None) -> None:
        super().__init__(max_memory, max_processes)
        self._cluster, self._most_threads, self._most_memory = cluster, max_processes, max_memory

    def _solve(
        self,
        equations: TrainingEquations,
        options: SolverOptions,
        callback: Callback | None,
        checkpoint: Callable[[Solution], None] | None,
        monitor: Callable[[Solution], bool] | None,
    ) -> Solution:
        """Solve on the workers."""
        _require_iteration(options.solver, options.n_std)
        self._cluster.wait_for_workers(callback)
        machine, plan = self._planned(equations, replace(options, solver="cg"), callback)
        training = equations.training
        _log.info("%s", plan_text(machine.shares(training.n_train), training, len(plan.columns)))
        return run(plan, callback, checkpoint, monitor)

    def _planned(
        self, equations: TrainingEquations, options: SolverOptions, callback: Callback | None
    ) -> tuple[ClusterMachine, Plan]:
        """Plan for the workers that there are; where their memory is too small, for more that come in time."""
        while True:
            machine = ClusterMachine(self._cluster, self._most_threads, self._most_memory)
            try:
                return machine, choose(equations, options, machine)
            except InsufficientMemoryError as error:
                _log.info("%s", error)
                if not self._cluster.wait_for_more(callback):
                    raise InsufficientMemoryError(
                        f"{error} More workers (with --wait they are waited for), or workers with more memory "
                        "(--memory-limit of dask worker) will do, too."
                    ) from None


def _require_iteration(solver: str, n_std: int) -> None:
    if solver == "closed" or n_std:
        raise UsageError(
            "Rows are divided among workers for conjugate gradients; the closed form and standard deviations need "
            "one machine. Give each worker tasks of its own instead (--distribute tasks)."
        )


@dataclass(frozen=True)
class ClusterTrainer(Trainer):
    """A `Trainer` for `fastgdml.search.run` and `resume` whose trainings are those of `ClusterTrain`.

    Attributes
    ----------
    cluster : Cluster
        From `connect`.
    """

    cluster: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_iteration(self.solver, self.n_std)

    def start(self) -> GDMLTrain:
        """Return what trains."""
        return ClusterTrain(self.cluster, self.max_memory, self.max_processes)
