"""The course of an iterative solution: to go on, to add columns to the preconditioner, or to take the closed form.

How many steps an iteration takes is a property of the matrix that nobody knows beforehand. So it begins with few
columns, which cost little, and after some steps its rate of convergence says what is left (`convergence`). That, and
fixed rates for counted operations (`cost`), decide; no clock is read, so that the decision is the same on each machine.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from .convergence import Convergence
from .cost import Cost

# Steps before the first look; then each time that these have become a quarter more.
_FIRST_LOOK = 8
_NEXT_LOOK = 1.25
# A residual that has not yet fallen after fewer steps says nothing.
_BEGINNING = 24
# Columns are added if that takes less than this share of the time that is left, at least and at most this many times as
# many.
_GAIN = 0.9
_LEAST_GROWTH = 1.4
_MOST_GROWTH = 2.5
# With more columns steps become fewer with this power.
_STEPS_POWER = 1.6
# The closed form does not take over before steps have taken this share of its time: the first, above all those after a
# change of columns, may change little.
_PATIENCE = 0.08
# After t steps an estimate of what is left may be too large by this over t: more columns than were expected to be best
# are added only if they save time even then, and an iteration that seems longer than the closed form is borne for that
# reason, until it has taken the second share of the time of the closed form. All of it may take the third at most.
_DOUBT = 8
_SPENT = 0.4
_MOST = 2.2
# No columns are added if what is spent by then exceeds this share of the time of the closed form.
_STAKE = 0.5


class Verdict(enum.Enum):
    """What a look at the iteration says."""

    GO_ON = "go on"
    ADD_COLUMNS = "add columns"
    CLOSED_FORM = "closed form"


@dataclass
class Course:
    """Decides how an iteration goes on.

    Attributes
    ----------
    cost : Cost
        What columns and steps cost.
    counts : tuple of int
        Numbers of columns that may be taken, ascending.
    n_columns : int
        Those of the preconditioner now.
    closed_form : float
        Seconds of the closed form; infinity if there is none to go over to.
    expected : int
        The number of columns that was expected to be best.
    spent : float
        Seconds for what has been done.
    verdict : Verdict
        Of the last look.
    left : float
        Seconds that the iteration will still take, at that time.
    """

    cost: Cost
    counts: tuple[int, ...]
    n_columns: int
    closed_form: float = math.inf
    expected: int = 0
    spent: float = 0.0
    verdict: Verdict = Verdict.GO_ON
    left: float = math.nan
    _look: int = 0

    def begin(self) -> None:
        """Count a preconditioner of `n_columns` columns, with which the iteration begins or goes on."""
        self.verdict = Verdict.GO_ON
        self.spent += self.cost.building(self.n_columns)
        self._look = _FIRST_LOOK

    def review(self, convergence: Convergence) -> bool:
        """Look at the iteration after a step, if it is time; return whether it has to stop, see `verdict`."""
        if convergence.steps < self._look:
            return False
        self._look = math.ceil(_NEXT_LOOK * self._look)
        steps, step = convergence.steps_left(), self.cost.step(self.n_columns)
        if not math.isfinite(steps) and convergence.steps < _BEGINNING:
            return False
        # Without rounding errors it ends after n steps, whatever the preconditioner.
        steps = min(steps, self.cost.n)
        taken, self.left = convergence.steps * step, steps * step
        spent = self.spent + taken
        certain = steps / (1 + _DOUBT / convergence.steps)
        more, n_columns = min(
            (
                (self._with(count, steps), count)
                for count in self.counts
                if self._may_take(count, spent) and self._saves(count, steps if count <= self.expected else certain)
            ),
            default=(math.inf, 0),
        )
        if more < self.closed_form:
            self.verdict, self.left = Verdict.ADD_COLUMNS, more
            self.n_columns = n_columns
        elif taken > _PATIENCE * self.closed_form and self.left > self._bearable(convergence.steps, spent):
            self.verdict = Verdict.CLOSED_FORM
        else:
            return False
        self.spent = spent
        return True

    def _bearable(self, steps: int, spent: float) -> float:
        """Return how much may be left, by an estimate after so many steps, before the closed form takes over."""
        if spent > _SPENT * self.closed_form:
            return min(1.0, _MOST - spent / self.closed_form) * self.closed_form
        return (1 + _DOUBT / steps) * self.closed_form

    def _may_take(self, count: int, spent: float) -> bool:
        fitting = _LEAST_GROWTH * self.n_columns <= count <= _MOST_GROWTH * self.n_columns
        return fitting and spent + self.cost.building(count) <= _STAKE * self.closed_form

    def _saves(self, count: int, steps: float) -> bool:
        """Return whether so many columns save time where `steps` steps are left with those of now."""
        return self._with(count, steps) < _GAIN * steps * self.cost.step(self.n_columns)

    def _with(self, count: int, steps: float) -> float:
        """Return the time that is left with so many columns, if it is `steps` steps with those of now."""
        fewer = (self.n_columns / count) ** _STEPS_POWER
        return self.cost.building(count) + fewer * steps * self.cost.step(count)
