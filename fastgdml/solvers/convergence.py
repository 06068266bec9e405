"""How many steps conjugate gradients will still take, from those they have taken."""

from __future__ import annotations

import math

import numpy as np

from ..types import Array

# The power p of equation (1): that of the first steps, those that may be fitted, the first number of steps that is more
# than a few.
_POWER = 0.8
_POWERS = np.linspace(0.5, 1.0, 11)
_FEW = 24
# How far p may be from the first after twice as many steps.
_SPREAD = 0.1
# An iteration never takes less than its recent rate says, and, where that has not risen, rarely more than twice that.
_SLOWDOWN = 2.0
# Where z has fallen far enough but |r| has not, |r| is at its rounding errors: what is left is a multiple of the steps
# since then, without end.
_OVERDUE = 4.0


class Convergence:
    """The course of an iteration, and where it leads.

    Its measure is z = sqrt(r P^-1 r), the residual r in the norm of the preconditioner, which falls smoothly where |r|
    jumps about. From beginning to end both fall by nearly the same factor. How z falls differs: at a constant rate,
    ever more slowly, or hardly at first and then at a constant rate. So there are two estimates of the steps left:

    - z falls as exp(-a t^p) in t steps. In the first steps p is taken to be 0.8, later a and p are the least-squares
      fit to all steps; the end is where

          a t^p = ln(|r_0| / target);                                                                         (1)

    - z goes on at the rate of the second half of the steps.

    The first is too large where the rate has risen, as it does after a change of the preconditioner: the second counts.
    That is too small where the rate declines: else the first counts, but not below the second or beyond twice it. From
    about the 25th step on that was within a factor of two of what it came to, with sigma from 5 to 100 and lambda from
    1e-15 to 1e-6, but for iterations of thousands of steps, which seem shorter.

    Parameters
    ----------
    residual : float
        Norm of the residual that the iteration begins with.
    target : float
        Norm of the residual that is asked for.
    """

    def __init__(self, residual: float, target: float) -> None:
        self._decline = math.log(max(residual / target, 1.0))
        self._measures: list[float] = []

    @property
    def steps(self) -> int:
        """Number of steps so far."""
        return max(len(self._measures) - 1, 0)

    def record(self, energy: float) -> None:
        """Take r P^-1 r of the next step; the first is that of the beginning."""
        self._measures.append(0.5 * math.log(energy) if energy > 0 else math.inf)

    def steps_left(self) -> float:
        """Return the number of steps that the iteration will still take, at least 1; infinity if it does not fall."""
        if self.steps < 2:
            return math.inf
        falls = self._measures[0] - np.array(self._measures)
        if not np.isfinite(falls).all():
            return math.inf
        enough = falls >= self._decline
        if enough[-1]:
            return max(1.0, _OVERDUE * (self.steps - int(np.argmax(enough))))
        middle = len(falls) // 2
        (before, _), (rate, now) = _line(falls[: middle + 1]), _line(falls[middle:])
        whole = self._of_all_steps(falls)
        if rate <= 0:
            return max(1.0, whole)
        recent = (self._decline - now) / rate
        return max(1.0, recent if rate > before else min(max(whole, recent), _SLOWDOWN * recent))

    def _of_all_steps(self, falls: Array) -> float:
        """Return the steps left by equation (1)."""
        spread = _SPREAD * math.log2(max(self.steps / _FEW, 1.0))
        powers = _POWERS[np.abs(_POWERS - _POWER) <= spread + 1e-9]
        steps = np.arange(len(falls))[:, None] ** powers
        product, square = falls @ steps, (steps**2).sum(axis=0)
        best = int(np.argmax(product**2 / square))  # what the fit leaves is least where it takes most away
        if product[best] <= 0:
            return math.inf
        return float((self._decline * square[best] / product[best]) ** (1 / powers[best]) - self.steps)


def _line(values: Array) -> tuple[float, float]:
    """Return the slope and the end of the line that fits values best, at least two."""
    steps = np.arange(len(values)) - 0.5 * (len(values) - 1)
    slope = float(steps @ values / (steps @ steps))
    return slope, float(values.mean()) + slope * float(steps[-1])
