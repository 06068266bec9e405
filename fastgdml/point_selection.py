"""Which geometries of a pool to train on, or to label, by what they tell about the others.

A scalar Gaussian process stands for the forces, with a symmetric kernel that is as smooth as theirs,

    k(x, x') = sum_p m(|x - P_p x'|),      m(d) = (1 + s) exp(-s),      s = 5^(1/2) d / sigma.               (1)

With the covariances C given the geometries that are selected, one more, j, lowers the variance at i by
C_ij^2 / (C_jj + e). Selected is, one after the other, what lowers the sum over the pool the most,

    max_j  sum_i w_i C_ij^2 / (C_jj + e),                                                                     (2)

with w = 1: integrated variance reduction. Where forces are known, w_i is the squared error at i of a model that is
trained on some of the pool, drawn at random, over the variance of (1) at i given these: (2) is then the expected
squared error.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular

from .cell import Cell
from .descriptor import from_R, pair_permutation
from .errors import UsageError
from .formats import ReadOptions, open_frames
from .formats.frames import chunk_frames
from .formats.npz import Spool
from .learning.growing import GrowingModel, Labelled, System
from .permutations import find_perms
from .predict import GDMLPredict
from .progress import Callback, Step
from .reading import Report, UnitOptions, find_source
from .rearrange import rearrange
from .sampling import draw_uniform, generator
from .threads import blas_threads, resolve_n_threads
from .types import Array, IntArray
from .writing import WriteOptions

_log = logging.getLogger(__name__)

# The sum of (2) is over so many geometries of the pool, drawn at random.
_MAX_REFERENCES = 1000
# Selected is from so many, or from four times those wanted, drawn at random.
_MAX_CANDIDATES = 5000
_MOST = 2000
# Training points of the model whose errors are the weights: half of those wanted, but at least and at most
_LEAST_TRAINED, _MOST_TRAINED = 10, 300
# Geometries in which symmetries are looked for, unless the pool records them.
_SYMMETRY_POINTS = 300
_NOISE = 1e-8
_SIGMA = 20.0


@dataclass(frozen=True)
class SelectionOptions:
    """How to select.

    Attributes
    ----------
    sig : float or None
        Length scale; by default that with the smallest leave-one-out errors, 20 if there are no forces.
    use_labels : bool
        False selects as from a pool without labels.
    seed : int
        Seed of the draws.
    max_processes : int or None
        Number of threads; all by default.
    """

    sig: float | None = None
    use_labels: bool = True
    seed: int = 0
    max_processes: int | None = None


def select_points(
    pool: str | os.PathLike[str],
    n: int,
    target: str | os.PathLike[str],
    options: SelectionOptions | None = None,
    read: ReadOptions | None = None,
    units: UnitOptions | None = None,
    write: WriteOptions | None = None,
    callback: Callback | None = None,
) -> Report:
    """Write n geometries of a pool, in the order in which they are selected.

    Parameters
    ----------
    pool : path-like
        Geometries, labelled or not, of any format that fastgdml reads.
    n : int
        How many, at most 2000.
    target : path-like
        The file.
    options : SelectionOptions, optional
        How to select.
    read, units, write, callback
        As in `fastgdml.convert.convert`.

    Raises
    ------
    UsageError
        If the pool has fewer geometries, or n is too large.

    Notes
    -----
    Frames are kept on disk. In memory are descriptors of at most 5000 candidates (or 4 n) and 1000 further geometries,
    and as many rows and columns of covariances: about 100 MB, whatever the size of the pool.
    """
    options = options or SelectionOptions()
    if not 0 < n <= _MOST:
        raise UsageError(
            f"{n} geometries are to be selected; 1 to {_MOST} can be. Draw larger sets at random ('fastgdml dataset "
            "thin --n'): what selection gains is small, and smaller for larger sets."
        )
    with open_frames(find_source(os.fspath(pool)), read or ReadOptions()) as source:
        perms = source.facts.perms
    path = os.fspath(target)

    def choose(spool: Spool) -> list[tuple[str, IntArray]]:
        if n > spool.n:
            raise UsageError(f"{n} geometries are to be selected from a pool of {spool.n}.")
        return [(path, _selected(spool, n, options, perms, callback))]

    return rearrange([pool], [path], choose, read, units, write, callback)


def _selected(
    spool: Spool, n: int, options: SelectionOptions, perms: IntArray | None, callback: Callback | None
) -> IntArray:
    """Return the numbers of n frames."""
    rng, n_threads = generator(options.seed), resolve_n_threads(options.max_processes)
    candidates = np.sort(draw_uniform(spool.n, min(spool.n, max(_MAX_CANDIDATES, 4 * n)), rng))
    references = np.sort(draw_uniform(spool.n, min(spool.n, _MAX_REFERENCES), rng))
    if perms is None:
        some = spool.read(np.sort(draw_uniform(spool.n, min(spool.n, _SYMMETRY_POINTS), rng)))
        cell = None if some.lattice is None else Cell(some.lattice)
        perms = find_perms(some.R, some.z, cell, n_threads=n_threads)
    forces = spool.array("F") is not None and options.use_labels
    if forces and not _has_one_cell(spool):
        _log.info("The geometries are in several cells: they are selected without regard to their labels.")
        forces = False
    trained = None
    sig = options.sig or _SIGMA
    if forces:
        size = min(spool.n, max(_LEAST_TRAINED, min(n // 2, _MOST_TRAINED)))
        trained = np.sort(draw_uniform(spool.n, size, rng))
        step = Step(callback, f"Training on {size:,} geometries, for weights")
        sig, squared = _errors(spool, trained, references, np.asarray(perms, dtype=np.int64), options, n_threads)
        step.done(f"root mean square error {np.sqrt(squared.mean()):.3g}, sigma {sig:g}")
    kernel = _Kernel(perms, sig)
    x_ref = _descriptors(spool, references, n_threads)
    weights = np.ones(len(references))
    if trained is not None:
        variance = _variance(kernel, _descriptors(spool, trained, n_threads), x_ref, _places(references, trained))
        weights = squared / np.maximum(variance, 1e-2 * np.median(variance))
    step = Step(callback, "Selecting", n)
    with blas_threads(n_threads):
        order = integrated_variance_reduction(
            kernel, _descriptors(spool, candidates, n_threads), x_ref, weights, n, step
        )
    step.done()
    return candidates[order]


@dataclass(frozen=True)
class _Kernel:
    """The kernel (1)."""

    perms: NDArray[np.integer]
    sig: float

    def __call__(self, a: Array, b: Array) -> Array:
        """Return the covariances of descriptors (m, D) and (n, D), shape (m, n)."""
        out = np.zeros((len(a), len(b)))
        squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
        for perm in np.atleast_2d(self.perms):
            s = squared - 2 * (a @ b[:, pair_permutation(perm)].T)
            np.maximum(s, 0, out=s)
            np.sqrt(s, out=s)
            s *= np.sqrt(5) / self.sig
            out += (1 + s) * np.exp(-s)
        return out

    def diagonal(self, a: Array) -> Array:
        """Return the variances of descriptors (m, D), shape (m,)."""
        out = np.zeros(len(a))
        for perm in np.atleast_2d(self.perms):
            s = np.linalg.norm(a - a[:, pair_permutation(perm)], axis=1) * np.sqrt(5) / self.sig
            out += (1 + s) * np.exp(-s)
        return out


def integrated_variance_reduction(
    kernel: _Kernel, x: Array, x_ref: Array, weights: Array, n: int, progress: Step | None = None
) -> IntArray:
    """Select n of the candidates x, one after the other, by (2).

    Parameters
    ----------
    kernel : callable
        The kernel, with its `diagonal`.
    x, x_ref : ndarray, shapes (n_candidates, D) and (n_ref, D)
        Descriptors of candidates, and of the geometries of the sum.
    weights : ndarray, shape (n_ref,)
        Their weights.
    n : int
        How many.
    progress : callable, optional
        Called with (done, n).

    Returns
    -------
    ndarray of int64, shape (n,)
        Candidates in the order in which they were selected.
    """
    chunk = 64
    C = np.empty((len(x_ref), len(x)))
    for first in range(0, len(x_ref), chunk):
        C[first : first + chunk] = kernel(x_ref[first : first + chunk], x)
    variance = kernel.diagonal(x)
    noise = _NOISE * variance.mean()
    # Rows of the Cholesky factor of the covariances of what is selected with all candidates, and with the references.
    factor = np.empty((n, len(x)))
    free = np.ones(len(x), dtype=bool)
    order = np.empty(n, dtype=np.int64)
    for k in range(n):
        score = np.zeros(len(x))
        for first in range(0, len(x_ref), chunk):
            part = C[first : first + chunk]
            score += weights[first : first + chunk] @ (part * part)
        score /= variance + noise
        score[~free] = -np.inf
        j = int(np.argmax(score))
        order[k], free[j] = j, False
        row = kernel(x[j : j + 1], x)[0] - factor[:k, j] @ factor[:k]
        scale = np.sqrt(max(row[j], 0.0) + noise)
        factor[k] = row / scale
        column = C[:, j] / scale
        for first in range(0, len(x_ref), chunk):
            C[first : first + chunk] -= column[first : first + chunk, None] * factor[k]
        variance = np.maximum(variance - factor[k] ** 2, 0)
        if progress is not None:
            progress(k + 1, n)
    return order


def _variance(kernel: _Kernel, x_train: Array, x: Array, places: IntArray) -> Array:
    """Return the variances at x given training points; at one of these, by its place among them, given the others."""
    K = kernel(x_train, x_train)
    K[np.diag_indices_from(K)] += _NOISE * K.diagonal().mean()
    L = cholesky(K, lower=True)
    k = kernel(x_train, x)
    variance = kernel.diagonal(x) - (solve_triangular(L, k, lower=True) ** 2).sum(axis=0)
    left_out = 1 / cho_solve((L, True), np.eye(len(K))).diagonal()
    return np.where(places < 0, variance, left_out[places])


def _places(wanted: IntArray, among: IntArray) -> IntArray:
    """Return the places of numbers among others, which are sorted; -1 of those that are not there."""
    places = np.minimum(np.searchsorted(among, wanted), len(among) - 1)
    return np.where(among[places] == wanted, places, -1)


def _errors(
    spool: Spool,
    trained: IntArray,
    wanted: IntArray,
    perms: IntArray,
    options: SelectionOptions,
    n_threads: int,
) -> tuple[float, Array]:
    """Train on some frames. Returns sigma, and mean squared errors of the forces of wanted frames, left out or new."""
    frames = spool.read(trained)
    lattice = None if frames.lattice is None else frames.lattice[0]
    system = System(frames.z, lattice, "", "", "pool", "unknown")
    assert frames.F is not None
    model = GrowingModel(system, perms, options.sig or _SIGMA, n_std=1, n_threads=n_threads)
    model.add(Labelled(frames.R, frames.F, np.zeros(len(trained))))
    if options.sig is None:
        model.set_kernel(perms, model.best_sigma())
    entries = model.model()
    predictor = GDMLPredict(entries, max_processes=n_threads)
    squared = np.empty(len(wanted))
    step = chunk_frames(spool.n_atoms)
    for first in range(0, len(wanted), step):
        part = spool.read(wanted[first : first + step])
        assert part.F is not None
        _, F = predictor.predict(part.R.reshape(len(part), -1))
        squared[first : first + step] = ((F - part.F.reshape(F.shape)) ** 2).mean(axis=1)
    if len(model) == len(trained):
        left_out = (entries["loo_f"] ** 2).mean(axis=(1, 2))
        places = _places(wanted, trained)
        squared = np.where(places < 0, squared, left_out[places])
    return model.sig, squared


def _descriptors(spool: Spool, which: IntArray, n_threads: int) -> Array:
    parts = []
    step = chunk_frames(spool.n_atoms)
    for first in range(0, len(which), step):
        frames = spool.read(which[first : first + step])
        parts.append(from_R(frames.R, None if frames.lattice is None else Cell(frames.lattice), n_threads)[0])
    return np.concatenate(parts)


def _has_one_cell(spool: Spool) -> bool:
    lattice = spool.array("lattice")
    if lattice is None:
        return True
    step = chunk_frames(spool.n_atoms)
    return all((lattice[first : first + step] == lattice[0]).all() for first in range(0, spool.n, step))
