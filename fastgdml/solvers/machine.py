"""What the solvers run on: the processor, or a device (`fastgdml.gpu.machine`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

from ..operator import KernelOperator
from . import cholesky, preconditioner


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second; only the ratios matter for the choices that are made.

    They are fixed, those of two cores with AVX-512, and not measured on the spot: the same task has the same solution
    wherever and whenever it is solved.

    Attributes
    ----------
    blas : float
        Operations of matrix products and factorisations.
    kernels : float
        Operations of products with the matrix-free kernel.
    bytes : float
        Bytes read from memory.
    """

    blas: float = 90e9
    kernels: float = 55e9
    bytes: float = 15e9


@dataclass(frozen=True)
class Machine:
    """The parts that solvers are made of. Functions have the arguments of their namesakes for the processor.

    Attributes
    ----------
    of_memory : str
        What messages add to "limit": nothing, or " of device memory".
    limit : callable
        Limit in GB that the caller gave, or None -> bytes that a solver may take.
    closed_form, closed_form_memory : callable
        As `cholesky.solve_closed_form` and `cholesky.memory_estimate`.
    operator : callable
        As `fastgdml.operator.KernelOperator`.
    preconditioner, preconditioner_memory : callable
        As `preconditioner.build` and `preconditioner.memory`.
    rates : Rates
        What the number of columns of the preconditioner follows from.
    compares : bool
        Whether 'auto' weighs the iteration against a closed form that fits; else it takes that.
    """

    of_memory: str
    limit: Callable[[float | None], float]
    closed_form: Callable[..., cholesky.ClosedFormSolution]
    closed_form_memory: Callable[..., int]
    operator: Callable[..., Any]
    preconditioner: Callable[..., Any]
    preconditioner_memory: Callable[[int, int, int], int]
    rates: Rates
    compares: bool


def _limit(max_memory: float | None) -> float:
    return float(psutil.virtual_memory().available) if max_memory is None else max_memory * 2**30


PROCESSOR = Machine(
    "",
    _limit,
    cholesky.solve_closed_form,
    cholesky.memory_estimate,
    KernelOperator,
    preconditioner.build,
    preconditioner.memory,
    Rates(),
    compares=True,
)
