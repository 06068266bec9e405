"""Which geometries of a pool to train on, or to label, by what they tell about the others.

A scalar Gaussian process stands for the forces, with a symmetric kernel that is as smooth as theirs,

    k(x, x') = sum_p m(|x - P_p x'|),      m(d) = (1 + s) exp(-s),      s = 5^(1/2) d / sigma.               (1)

With the covariances C given the geometries that are selected, one more, j, lowers the variance at i by
C_ij^2 / (C_jj + e). Selected is, one after the other, what lowers the sum over the pool the most,

    max_j  sum_i w_i C_ij^2 / (C_jj + e),                                                                     (2)

with w = 1: integrated variance reduction. Where forces are known, ten times on the way a model is trained on what is
selected so far; w_i is then its squared error at i over the variance at i, which makes of (2) an expected fall of the
squared error.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .cell import Cell
from .descriptor import from_R, pair_permutation
from .errors import UsageError
from .formats import ReadOptions
from .formats.frames import chunk_frames
from .formats.npz import Spool
from .learning.growing import GrowingModel, Labelled, System
from .permutations import find_perms
from .predict import GDMLPredict
from .progress import Callback, Step
from .reading import Report, UnitOptions
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
# How often weights are made of errors on the way, and the largest order of the matrix of the model for that (512 MB).
_STAGES = 10
_MOST_ROWS = 8000
# Points drawn at random for the choice of sigma, half of those wanted, but at least and at most
_LEAST_TRAINED, _MOST_TRAINED = 10, 100
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
    and as many rows and columns of covariances, about 100 MB, and with labels a model of at most 512 MB, whatever the
    size of the pool.
    """
    options = options or SelectionOptions()
    if not 0 < n <= _MOST:
        raise UsageError(
            f"{n} geometries are to be selected; 1 to {_MOST} can be. Draw larger sets at random ('fastgdml dataset "
            "thin --n'): what selection gains is small, and smaller for larger sets."
        )
    path = os.fspath(target)

    def choose(spool: Spool, perms: IntArray | None) -> list[tuple[str, IntArray]]:
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
    if forces and not spool.has_one_lattice:
        _log.info("The geometries are in several cells: they are selected without regard to their labels.")
        forces = False
    weigh, sig = None, options.sig or _SIGMA
    perms = np.asarray(perms, dtype=np.int64)
    if forces:
        if options.sig is None:
            sig = _best_sigma(spool, perms, n, rng, n_threads)
            _log.info("Sigma %g has the smallest leave-one-out errors.", sig)
        weigh = _Weights(spool, candidates, references, _growing(spool, perms, sig, n_threads))
    kernel = _Kernel(perms, sig)
    x, x_ref = (_descriptors(spool, which, n_threads) for which in (candidates, references))
    step = Step(callback, "Selecting", n)
    with blas_threads(n_threads):
        order = integrated_variance_reduction(kernel, x, x_ref, n, weigh, step)
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
    kernel: _Kernel,
    x: Array,
    x_ref: Array,
    n: int,
    weigh: Callable[[IntArray, Array], Array] | None = None,
    progress: Step | None = None,
) -> IntArray:
    """Select n of the candidates x, one after the other, by (2).

    Parameters
    ----------
    kernel : callable
        The kernel, with its `diagonal`.
    x, x_ref : ndarray, shapes (n_candidates, D) and (n_ref, D)
        Descriptors of candidates, and of the geometries of the sum.
    n : int
        How many.
    weigh : callable, optional
        Returns the weights (n_ref,) from here on, of the candidates selected so far and the variances (n_ref,) that are
        left. It is called after each tenth of the selection; the weights are 1 before.
    progress : callable, optional
        Called with (done, n).

    Returns
    -------
    ndarray of int64, shape (n,)
        Candidates in the order in which they were selected.
    """
    chunks = [slice(first, first + 64) for first in range(0, len(x_ref), 64)]
    C = np.empty((len(x_ref), len(x)))
    for part in chunks:
        C[part] = kernel(x_ref[part], x)
    variance, left, weights = kernel.diagonal(x), kernel.diagonal(x_ref), np.ones(len(x_ref))
    noise = _NOISE * variance.mean()
    # Rows of the Cholesky factor of the covariances of what is selected with all candidates.
    factor = np.empty((n, len(x)))
    free = np.ones(len(x), dtype=bool)
    order = np.empty(n, dtype=np.int64)
    stages = {round(n * stage / _STAGES) for stage in range(1, _STAGES)}
    for k in range(n):
        if weigh is not None and k > 1 and k in stages:
            weights = weigh(order[:k], left)
        score = np.zeros(len(x))
        for part in chunks:
            score += weights[part] @ (C[part] * C[part])
        score /= variance + noise
        score[~free] = -np.inf
        j = int(np.argmax(score))
        order[k], free[j] = j, False
        row = kernel(x[j : j + 1], x)[0] - factor[:k, j] @ factor[:k]
        scale = np.sqrt(max(row[j], 0.0) + noise)
        factor[k] = row / scale
        column = C[:, j] / scale
        for part in chunks:
            C[part] -= column[part, None] * factor[k]
        variance = np.maximum(variance - factor[k] ** 2, 0)
        left = np.maximum(left - column**2, 0)
        if progress is not None:
            progress(k + 1, n)
    return order


@dataclass
class _Weights:
    """Squared errors of a model of what is selected so far over the variances that are left.

    Attributes
    ----------
    spool : Spool
        The frames.
    candidates, references : ndarray of int
        Numbers of frames.
    model : GrowingModel
        The model, without points at first.
    """

    spool: Spool
    candidates: IntArray
    references: IntArray
    model: GrowingModel
    _n_known: int = 0
    _weights: Array | None = None

    def __call__(self, selected: IntArray, left: Array) -> Array:
        """Return the weights. Those of the largest model that fits stay."""
        numbers = self.candidates[selected]
        most = max(2, _MOST_ROWS // (3 * self.spool.n_atoms))
        if self._n_known == most and self._weights is not None:
            return np.where(np.isin(self.references, numbers), 0.0, self._weights)
        self.model.add(_labelled(self.spool, numbers[self._n_known : most]))
        self._n_known = min(len(numbers), most)
        squared = _squared_errors(self.spool, self.references, self.model)
        self._weights = squared / np.maximum(left, max(1e-2 * float(np.median(left)), 1e-300))
        return np.where(np.isin(self.references, numbers), 0.0, self._weights)


def _growing(spool: Spool, perms: IntArray, sig: float, n_threads: int) -> GrowingModel:
    lattice = spool.array("lattice")
    system = System(spool.z, None if lattice is None else np.array(lattice[0]), "", "", "pool", "unknown")
    return GrowingModel(system, perms, sig, n_threads=n_threads)


def _labelled(spool: Spool, which: IntArray) -> Labelled:
    frames = spool.read(which)
    assert frames.F is not None
    return Labelled(frames.R, frames.F, np.zeros(len(which)))  # energies do not matter for forces


def _best_sigma(spool: Spool, perms: IntArray, n: int, rng: np.random.RandomState, n_threads: int) -> float:
    """Return the length scale whose leave-one-out errors are smallest for some frames."""
    size = min(spool.n, max(_LEAST_TRAINED, min(n // 2, _MOST_TRAINED)))
    model = _growing(spool, perms, _SIGMA, n_threads)
    model.add(_labelled(spool, np.sort(draw_uniform(spool.n, size, rng))))
    return model.best_sigma()


def _squared_errors(spool: Spool, wanted: IntArray, model: GrowingModel) -> Array:
    """Return mean squared errors of the forces of frames."""
    predictor = GDMLPredict(model.model(left_out=False), max_processes=model.n_threads)
    squared = np.empty(len(wanted))
    step = chunk_frames(spool.n_atoms)
    for first in range(0, len(wanted), step):
        part = _labelled(spool, wanted[first : first + step])
        _, F = predictor.predict(part.R.reshape(len(part), -1))
        squared[first : first + step] = ((F - part.F.reshape(F.shape)) ** 2).mean(axis=1)
    return squared


def _descriptors(spool: Spool, which: IntArray, n_threads: int) -> Array:
    parts = []
    step = chunk_frames(spool.n_atoms)
    for first in range(0, len(which), step):
        frames = spool.read(which[first : first + step])
        parts.append(from_R(frames.R, None if frames.lattice is None else Cell(frames.lattice), n_threads)[0])
    return np.concatenate(parts)
