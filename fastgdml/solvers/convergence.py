"""How many steps conjugate gradients will still take, from those they have taken."""

from __future__ import annotations

import math

import numpy as np

# The power p of equation (1): that of the first steps, those that may be fitted, the first of them that are enough to.
_POWER = 0.8
_POWERS = np.linspace(0.5, 1.0, 11)
_ENOUGH = 24
# How far p may be from the first after twice as many steps.
_SPREAD = 0.1


class Convergence:
    """The course of an iteration, and where it leads.

    Its measure is sqrt(r P^-1 r), the residual r in the norm of the preconditioner, which falls smoothly where |r|
    jumps about. After t steps it has fallen by a factor exp(a t^p). In the first steps p is taken to be 0.8, later a
    and p are the least-squares fit to all steps. |r| falls by nearly the same factor from beginning to end, so that

        a t^p = ln(|r_0| / target).                                                                               (1)

    On molecules with sigma from 5 to 100 and lambda from 1e-15 to 1e-6, the steps left are estimated within a factor of
    two from the 16th step on.

    Parameters
    ----------
    residual : float
        Norm of the residual that the iteration begins with.
    target : float
        Norm of the residual that is asked for.

    Attributes
    ----------
    steps : int
        Number of steps so far.
    """

    def __init__(self, residual: float, target: float) -> None:
        self._decline = math.log(max(residual / target, 1.0))
        self._first = math.nan
        # Sums over the steps of t^p ln(z_0 / z_t), with z the measure, and of t^2p, for each p.
        self._product, self._square = np.zeros(len(_POWERS)), np.zeros(len(_POWERS))
        self.steps = 0

    def record(self, energy: float) -> None:
        """Take r P^-1 r of the next step; the first is that of the beginning."""
        if math.isnan(self._first):
            self._first = energy
            return
        self.steps += 1
        if energy > 0 and self._first > 0:
            power = self.steps**_POWERS
            self._product += power * 0.5 * math.log(self._first / energy)
            self._square += power**2

    def steps_left(self) -> float:
        """Return the number of steps that the iteration will still take, at least 1; infinity if it does not fall."""
        spread = _SPREAD * math.log2(max(self.steps / _ENOUGH, 1.0))
        allowed = np.abs(_POWERS - _POWER) <= spread + 1e-9
        product, square, powers = self._product[allowed], self._square[allowed], _POWERS[allowed]
        if not (product > 0).all():
            return math.inf
        # The sum of squares that the fit leaves is least where it takes most away.
        best = int(np.argmax(product**2 / square))
        whole = (self._decline * square[best] / product[best]) ** (1 / powers[best])
        return float(max(1.0, whole - self.steps))
