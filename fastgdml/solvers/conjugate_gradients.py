"""Preconditioned conjugate gradients, for an operator and a preconditioner that are functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

Operator = Callable[[Any], Any]

# Steps between residuals that are computed from their definition.
_TRUE_RESIDUAL_INTERVAL = 50
# Part of a residual that may have come from rounding errors.
_ROUNDING = 0.1


@dataclass
class Iterate:
    """State after a step.

    Attributes
    ----------
    x : array, shape (n,)
        The solution so far, where the vectors are; overwritten by the next step.
    step : int
        Number of the step; 0 is the starting point.
    residual : float
        Norm of b - A x.
    energy : float
        r P^-1 r of the residual r before this step; not a number at the starting point.
    """

    x: Any
    step: int
    residual: float
    energy: float = math.nan


def iterate(
    operator: Operator, preconditioner: Operator, b: Any, x0: Any = None, xp: ModuleType = np
) -> Iterator[Iterate]:
    """Yield the starting point and then one iterate for each step; stop asking when it is good enough.

    The flexible form (Polak-Ribiere) bears rounding errors in the preconditioner. The residual is updated along with x;
    every 50 steps it is computed anew from its definition. Where that shows that it consists of rounding errors to a
    good part, directions are no longer conjugate, and to go on with them would lead away from the solution without
    end: the next direction is that of the preconditioned residual alone, which refines the solution.

    Vectors and scalars stay where `b` is. Of a step only these two numbers of the residual leave a device: whoever asks
    for the iterates has to see them before the next step.

    Parameters
    ----------
    operator : callable
        v -> A v, symmetric and positive definite.
    preconditioner : callable
        r -> P^-1 r, nearly A^-1 r.
    b : array, shape (n,)
        Right-hand side.
    x0 : array, shape (n,), optional
        Starting point; zero by default.
    xp : module
        The array module of all vectors, numpy or cupy.

    Yields
    ------
    Iterate
        The same object each time, updated.
    """
    x = xp.zeros_like(b) if x0 is None else x0.copy()
    r = b.copy() if x0 is None else b - operator(x)
    state = Iterate(x, 0, float(xp.linalg.norm(r)))
    yield state
    z = preconditioner(r)
    p = z.copy()
    rz = r @ z
    while True:
        Ap = operator(p)
        with np.errstate(divide="ignore", invalid="ignore"):  # a breakdown shows in the residual
            alpha = rz / (p @ Ap)
            x += alpha * p
            previous = r
            state.step += 1
            r = r - alpha * Ap
        restart = None
        if state.step % _TRUE_RESIDUAL_INTERVAL == 0:
            updated, r = r, b - operator(x)
            restart = xp.linalg.norm(r - updated) > _ROUNDING * xp.linalg.norm(r)
        state.residual, state.energy = xp.stack((xp.linalg.norm(r), rz)).tolist()
        yield state
        z = preconditioner(r)
        with np.errstate(divide="ignore", invalid="ignore"):
            beta = (z @ (r - previous)) / rz
        if restart is not None:
            beta = xp.where(restart, 0.0, beta)
        rz = r @ z
        p *= beta
        p += z
