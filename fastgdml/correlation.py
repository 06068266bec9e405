"""Training points that are nearly copies of one another: groups of them, to be left out together.

Frames of a trajectory that are near in time have nearly the same geometry. To leave out one of them changes a model
little, and the jackknife would take that for certainty.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .errors import UsageError
from .types import Array, IntArray

# Points are correlated where their mean squared distance is below this share of that of any two points.
_CORRELATED = 0.75
# Points are copies of one another, wherever they come from, below this share.
_COPIES = 0.03
# Neighbours in time whose distances are looked at, of each point; pairs of them that make one mean, at least.
_NEIGHBOURS, _WINDOW = 32, 32
# Blocks that a correlated trajectory is cut into: many correlation times long, and enough to tell a variance.
_BLOCKS, _FEWEST = 16, 8


def groups_for(wanted: npt.ArrayLike | str | None, frames: npt.ArrayLike, x: Array) -> npt.ArrayLike | None:
    """Return what `wanted` stands for: groups as given, None, `correlated_groups` for 'auto', blocks for a number.

    Raises
    ------
    UsageError
        If it is another word, or a number of blocks that the points cannot be cut into.
    """
    if isinstance(wanted, int):
        return blocks(frames, wanted)
    if not isinstance(wanted, str):
        return wanted
    if wanted != "auto":
        raise UsageError(f"std_groups is {wanted!r}: 'auto', or one number for each training point.")
    return correlated_groups(frames, x)


def blocks(frames: npt.ArrayLike, n_blocks: int) -> IntArray:
    """Return the group of each training point: blocks of equal size in the order of frame numbers.

    Raises
    ------
    UsageError
        If there are not two blocks at least, of one point or more.
    """
    numbers = np.asarray(frames, dtype=np.int64)
    n = len(numbers)
    if not 2 <= n_blocks <= n:
        raise UsageError(f"std_groups is {n_blocks}: {n} training points can be cut into 2 to {n} blocks.")
    groups = np.empty(n, dtype=np.int64)
    groups[np.argsort(numbers, kind="stable")] = np.arange(n) * n_blocks // n
    return groups


def correlated_groups(frames: npt.ArrayLike, x: Array) -> IntArray:
    """Return the group of each training point: blocks of frames that are correlated in time, and near copies.

    The correlation time is the difference of frame numbers at which the mean squared distance of descriptors reaches
    75% of that of any two points. Where it is longer than what lies between points, they are cut into 16 blocks of
    equal size, fewer if blocks would be shorter than two correlation times: fast vibrations lose their memory first,
    slow motions keep it far longer. Points that are not correlated are groups of their own, but for near copies.

    Parameters
    ----------
    frames : array_like of int, shape (M,)
        Numbers of the points in their dataset, in the order of time if it is a trajectory.
    x : ndarray, shape (M, D)
        Their descriptors.

    Returns
    -------
    ndarray of int, shape (M,)
        Numbers from 0.
    """
    numbers = np.asarray(frames, dtype=np.int64)
    n = len(numbers)
    spread = 2 * float(x.var(axis=0).sum())
    if n < 2 * _FEWEST or spread == 0:
        return np.arange(n)
    memory = _correlation_time(numbers, x, spread)
    groups = np.arange(n)
    if memory > 0:
        n_blocks = max(_FEWEST, min(_BLOCKS, int(np.ptp(numbers)) // (2 * memory)))
        groups = blocks(numbers, n_blocks)
    return _joined(groups, x, spread)


def _correlation_time(numbers: IntArray, x: Array, spread: float) -> int:
    """Return the first difference of frame numbers whose points are no longer correlated; 0 if none are."""
    order = np.argsort(numbers, kind="stable")
    t, sorted_x = numbers[order], x[order]
    steps = range(1, min(_NEIGHBOURS, len(t) - 1) + 1)
    lags = np.concatenate([t[k:] - t[:-k] for k in steps])
    distances = np.concatenate([((sorted_x[k:] - sorted_x[:-k]) ** 2).sum(axis=1) for k in steps]) / spread
    by_lag = np.argsort(lags, kind="stable")
    parts = np.array_split(by_lag, max(1, len(lags) // max(_WINDOW, len(t) // 4)))
    means = np.array([distances[part].mean() for part in parts])
    far = np.flatnonzero(means >= _CORRELATED)
    first = int(far[0]) if len(far) else len(parts)
    return 0 if first == 0 else int(lags[parts[first - 1]].max())


def _joined(groups: IntArray, x: Array, spread: float) -> IntArray:
    """Return groups of which those are one that hold copies of the same geometry, unless too few are left."""
    squares = (x**2).sum(axis=1)
    parent = np.arange(groups.max() + 1)

    def root(g: int) -> int:
        while parent[g] != g:
            g = parent[g]
        return g

    for first in range(0, len(x), 512):
        part = slice(first, first + 512)
        near = squares[part, None] + squares - 2 * x[part] @ x.T < _COPIES * spread
        for i, j in zip(*np.nonzero(near), strict=True):
            one, other = root(int(groups[first + i])), root(int(groups[j]))
            parent[max(one, other)] = min(one, other)
    _, joined = np.unique([root(int(g)) for g in groups], return_inverse=True)
    return joined if joined.max() + 1 >= _FEWEST else groups
