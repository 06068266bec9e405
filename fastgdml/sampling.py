"""Draws of training, validation and test points.

The random number generator is NumPy's frozen `RandomState`, used call for call as sgdml uses its global one: a seed
here gives the points that sgdml draws after ``np.random.seed(seed)``, on any machine and NumPy version.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import UsageError
from .types import IntArray


def new_seed() -> int:
    """Return a seed from the operating system's entropy."""
    return secrets.randbits(31)


def generator(seed: int | None) -> np.random.RandomState:
    """Return the random number generator of a seed, 0 <= seed < 2**32; NumPy's global one, as sgdml's, of None."""
    if seed is None:
        return np.random.mtrand._rand  # noqa: SLF001 (it has no public name)
    if not 0 <= seed < 2**32:
        raise UsageError(f"The seed must be between 0 and {2**32 - 1}; got {seed}.")
    return np.random.RandomState(seed)


def draw_uniform(n_data: int, n: int, rng: np.random.RandomState, excl_idxs: npt.ArrayLike | None = None) -> IntArray:
    """Draw n of n_data points without replacement, none of them in `excl_idxs`."""
    candidates = _candidates(n_data, n, excl_idxs)
    return rng.choice(candidates, n, replace=False).astype(np.int64)


def draw_points(
    dataset: Mapping[str, Any], n: int, rng: np.random.RandomState, excl_idxs: npt.ArrayLike | None = None
) -> IntArray:
    """Draw n points of a dataset, none of them in `excl_idxs`: stratified by energy, uniformly without energies."""
    if "E" in dataset:
        return draw_stratified(dataset["E"], n, rng, excl_idxs)
    return draw_uniform(len(dataset["F"]), n, rng, excl_idxs)


def draw_stratified(
    T: npt.ArrayLike, n: int, rng: np.random.RandomState, excl_idxs: npt.ArrayLike | None = None
) -> IntArray:
    """Draw n points whose labels T are distributed as those of the whole set.

    The labels are sorted into bins of the Freedman-Diaconis width (computed with the sample size), at most n / 2 of
    them. Each bin gives its share of points, rounded up; the surplus is taken back at random, in proportion to what
    a bin gives beyond its first point.

    Parameters
    ----------
    T : array_like, shape (n_data,)
        Labels, usually energies.
    n : int
        Number of points.
    rng : RandomState
        Random number generator.
    excl_idxs : array_like of int, optional
        Points not to draw.

    Returns
    -------
    ndarray of int64, shape (n,)
        Indices, bin by bin.

    Raises
    ------
    UsageError
        If fewer than n points are left.
    """
    T = np.asarray(T, dtype=np.float64).ravel()
    candidates = _candidates(T.size, n, excl_idxs)
    if n == 0:
        return np.empty(0, dtype=np.int64)
    if len(candidates) == n:
        return candidates
    if n == 1:
        return np.array([rng.choice(candidates)])

    q75, q25 = np.percentile(T, [75, 25])
    width = 2 * (q75 - q25) / np.cbrt(n)
    n_bins = int(np.ceil((T.max() - T.min()) / width)) if width > 0 else 1
    n_bins = min(n_bins, n // 2)
    edges = np.linspace(T.min(), T.max(), n_bins, endpoint=False)
    bin_of = np.digitize(T[candidates], edges)
    bins, available = np.unique(bin_of, return_counts=True)

    counts = np.ceil(available / available.sum() * n).astype(np.int64)
    while (surplus := int(counts.sum()) - n) > 0:
        # No bin can lose all its points in one round.
        at_most = counts[counts > 1].min() - 1
        beyond_first = (counts - 1) / np.sum(counts - 1, dtype=float)
        taken = rng.choice(bins, min(at_most, surplus), p=beyond_first, replace=True)
        counts -= np.bincount(np.searchsorted(bins, taken), minlength=len(bins))

    drawn = [rng.choice(candidates[bin_of == b], count, replace=False) for b, count in zip(bins, counts, strict=True)]
    return np.concatenate(drawn).astype(np.int64)


def _candidates(n_data: int, n: int, excl_idxs: npt.ArrayLike | None) -> IntArray:
    free = np.ones(n_data, dtype=bool)
    if excl_idxs is not None:
        free[np.asarray(excl_idxs, dtype=np.int64)] = False
    candidates = np.flatnonzero(free)
    if n > len(candidates):
        raise UsageError(
            f"{n} points asked for, but only {len(candidates)} of {n_data} are free"
            + (" (the others are used for training or validation)." if len(candidates) < n_data else ".")
        )
    return candidates
