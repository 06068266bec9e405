"""A device as what the solvers run on; the twin of `fastgdml.solvers.machine.PROCESSOR`."""

from __future__ import annotations

from functools import partial
from types import ModuleType

from ..solvers.machine import Machine, Rates
from .arrays import free_memory, release
from .cholesky import memory_estimate, solve_closed_form
from .operator import KernelOperator
from .preconditioner import build, memory

# Of the order of an A100 or H100 in double precision, and fixed, like those of the processor. Bytes: U is in double
# precision here, which the model of cost does not know; half the bandwidth says the same.
_RATES = Rates(blas=30e12, kernels=15e12, bytes=1e12)


def device(xp: ModuleType) -> Machine:
    """Return the current device of an array module, cupy or (for tests) numpy."""

    def limit(max_memory: float | None) -> float:
        release(xp)
        free = float(free_memory(xp))
        return free if max_memory is None else min(free, max_memory * 2**30)

    return Machine(
        " of device memory",
        limit,
        partial(solve_closed_form, xp=xp),
        memory_estimate,
        partial(KernelOperator, xp=xp),
        partial(build, xp=xp),
        memory,
        _RATES,
        compares=False,
    )
