"""Preconditioned conjugate gradients, for an operator and a preconditioner that are functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..types import Array

Operator = Callable[[Array], Array]

# Steps between residuals that are computed from their definition.
_TRUE_RESIDUAL_INTERVAL = 50
# Part of a residual that may have come from rounding errors.
_ROUNDING = 0.1


@dataclass
class Iterate:
    """State after a step.

    Attributes
    ----------
    x : ndarray, shape (n,)
        The solution so far; overwritten by the next step.
    step : int
        Number of the step; 0 is the starting point.
    residual : float
        Norm of b - A x.
    energy : float
        r P^-1 r of the residual r before this step; not a number at the starting point.
    """

    x: Array
    step: int
    residual: float
    energy: float = math.nan


def iterate(operator: Operator, preconditioner: Operator, b: Array, x0: Array | None = None) -> Iterator[Iterate]:
    """Yield the starting point and then one iterate for each step; stop asking when it is good enough.

    The flexible form (Polak-Ribiere) bears rounding errors in the preconditioner. The residual is updated along with x;
    every 50 steps it is computed anew from its definition. Where that shows that it consists of rounding errors to a
    good part, directions are no longer conjugate, and to go on with them would lead away from the solution without
    end: the next direction is that of the preconditioned residual alone, which refines the solution.

    Parameters
    ----------
    operator : callable
        v -> A v, symmetric and positive definite.
    preconditioner : callable
        r -> P^-1 r, nearly A^-1 r.
    b : ndarray, shape (n,)
        Right-hand side.
    x0 : ndarray, shape (n,), optional
        Starting point; zero by default.

    Yields
    ------
    Iterate
        The same object each time, updated.
    """
    x = np.zeros_like(b) if x0 is None else x0.copy()
    r = b.copy() if x0 is None else b - operator(x)
    state = Iterate(x, 0, float(np.linalg.norm(r)))
    yield state
    z = preconditioner(r)
    p = z.copy()
    rz = float(r @ z)
    while True:
        Ap = operator(p)
        alpha = rz / float(p @ Ap)
        x += alpha * p
        previous = r
        state.step += 1
        r = r - alpha * Ap
        restart = False
        if state.step % _TRUE_RESIDUAL_INTERVAL == 0:
            updated, r = r, b - operator(x)
            restart = bool(np.linalg.norm(r - updated) > _ROUNDING * np.linalg.norm(r))
        state.residual, state.energy = float(np.linalg.norm(r)), rz
        yield state
        z = preconditioner(r)
        beta = 0.0 if restart else float(z @ (r - previous)) / rz
        rz = float(r @ z)
        p *= beta
        p += z
