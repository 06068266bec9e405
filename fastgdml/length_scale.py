"""The best length scale with few trainings: downhill on a ladder of round numbers, then refined by parabolas.

Errors of models over the logarithm of sigma have the form of a flat bowl. So sigma is sought among 24 numbers a decade
(those of the series E24, a tenth apart), from 1 to 1000: finer steps change the error by less than its uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Callable

AUTO = "auto"

_DECADE = (10, 11, 12, 13, 15, 16, 18, 20, 22, 24, 27, 30, 33, 36, 39, 43, 47, 51, 56, 62, 68, 75, 82, 91)
LADDER = tuple([n / 10 for n in _DECADE] + [float(n) for n in _DECADE] + [10.0 * n for n in _DECADE] + [1000.0])
# Where a search begins that knows nothing, and its first steps: by 1.8 in sigma.
START = LADDER.index(20.0)
WIDE = 6
# Steps of a search that knows about where to look: by a third in sigma.
NARROW = 3
# Of the error, by a parabola through narrow steps: what is worth a training.
_LEAST_GAIN = 0.005


def downhill(error: Callable[[float], float], start: int, step: int, first: int = 1) -> int:
    """Return the rung of the ladder with the smallest error.

    Parameters
    ----------
    error : callable
        Positive error for a length scale, infinite where there is no model. It is called once for each.
    start : int
        Rung to begin at.
    step : int
        Rungs between those that bracket the minimum first.
    first : {1, -1}
        Whether to look at larger or smaller ones first.
    """
    tried: dict[int, float] = {}

    def value(rung: int) -> float:
        if rung not in tried:
            found = error(LADDER[rung])
            tried[rung] = math.log(found) if 0 < found < math.inf else math.inf if found > 0 else -math.inf
        return tried[rung]

    best = start
    value(best)
    for direction in (first, -first):
        while value(rung := min(max(best + direction * step, 0), len(LADDER) - 1)) < value(best):
            best = rung
    while (found := _next(tried, best)) is not None:
        if value(found) < value(best):
            best = found
    return best


def _next(tried: dict[int, float], best: int) -> int | None:
    """Return the rung to try next, beside the best one; None if nothing is to be gained."""
    below = max((rung for rung in tried if rung < best), default=best)
    above = min((rung for rung in tried if rung > best), default=best)
    free = [rung for rung in range(below + 1, above) if rung != best]
    if not free:
        return None
    middle = (best + above) // 2 if above - best > best - below else -((-best - below) // 2)
    if not below < best < above or not all(map(math.isfinite, (tried[below], tried[best], tried[above]))):
        return middle if middle in free else free[0]
    u, v = below - best, above - best
    slope_u, slope_v = (tried[below] - tried[best]) / u, (tried[above] - tried[best]) / v
    curvature = (slope_v - slope_u) / (v - u)  # of log error = log error(best) + slope r + curvature r^2
    slope = slope_u - curvature * u
    if curvature <= 0:  # all three equal
        return None
    vertex, gain = best - slope / (2 * curvature), slope**2 / (4 * curvature)
    if max(-u, v) <= NARROW and gain < _LEAST_GAIN:
        return None
    rung = min(max(round(vertex), below + 1), above - 1)
    if rung != best:
        return rung
    return None if max(-u, v) <= NARROW else middle if middle in free else free[0]
