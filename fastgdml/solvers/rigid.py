"""Exact reduction of the training equations by the rigid motions of each training point.

The Jacobian J_i of the descriptor annihilates rigid motions, so the forces that a point contributes lie in a space of
3N - 6 dimensions (3N - 5 for linear molecules, 3N - 3 with a lattice). Six coordinates of each point are dropped and
all others kept; B_i = [I; C_i] maps kept to all: f_dropped = C_i f_kept. With K = B K_kk B^T, where K_kk is K without
the dropped rows and columns,

    (K + lam I) alpha = y    is solved by    (K_kk + lam (B^T B)^-1) z = (B^T B)^-1 B^T y,               (1)
    alpha = B (B^T B)^-1 z,                                                                              (2)

up to a part of alpha that predicts nothing: (2) is the solution of least norm.

Energy constraints add coordinate 3N to a point, its energy, which is kept as it is: B_i is the identity there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from ..kernel import Coordinates
from ..types import Array, IntArray

_log = logging.getLogger(__name__)

# A rotation whose singular value is smaller than this fraction of the largest is taken as absent (linear molecule).
_RANK_TOLERANCE = 1e-6
# The largest condition number of B_i; beyond it only translations are dropped.
_MAX_CONDITION = 1e3


@dataclass(frozen=True)
class Reduction:
    """The kept coordinates of each training point and the maps between kept and all coordinates.

    Attributes
    ----------
    rows : Coordinates
        The kept coordinates.
    kept, dropped : list of ndarray of int
        Coordinates of each point.
    C : list of ndarray
        Forces on dropped coordinates from those on kept ones, (n_dropped, n_kept) for each point.
    gram_inverse : list of ndarray
        (B^T B)^-1, (n_kept, n_kept) for each point.
    """

    rows: Coordinates
    kept: list[np.ndarray]
    dropped: list[np.ndarray]
    C: list[Array]
    gram_inverse: list[Array]

    def reduce(self, y: Array) -> Array:
        """Return (B^T B)^-1 B^T y for y of shape (3 N M,), or ((3 N + 1) M,) with energies, point by point."""
        parts = y.reshape(len(self.kept), -1)
        return np.concatenate(
            [
                S @ (yi[kept] + C.T @ yi[dropped])
                for yi, kept, dropped, C, S in zip(
                    parts, self.kept, self.dropped, self.C, self.gram_inverse, strict=True
                )
            ]
        )

    def padded_gram_inverse(self) -> Array:
        """Return (B^T B)^-1 of all points as one array (M, m, m), blocks of lower order padded with zeros."""
        size = max(len(block) for block in self.gram_inverse)
        padded = np.zeros((len(self.gram_inverse), size, size))
        for i, block in enumerate(self.gram_inverse):
            padded[i, : len(block), : len(block)] = block
        return padded

    def expand(self, reduced: Array, n_coord: int) -> Array:
        """Return B (B^T B)^-1 z, shape (n_coord M,), for reduced z and n_coord = 3 N, or 3 N + 1 with energies."""
        alphas = np.empty((len(self.kept), n_coord))
        begin = self.rows.begin
        for i, (kept, dropped, C, S) in enumerate(zip(self.kept, self.dropped, self.C, self.gram_inverse, strict=True)):
            w = S @ reduced[begin[i] : begin[i + 1]]
            alphas[i, kept] = w
            alphas[i, dropped] = C @ w
        return alphas.ravel()


def drop_rigid_motions(R: Array, periodic: bool = False, energies: bool = False) -> Reduction:
    """Choose the coordinates to drop for each training point.

    Parameters
    ----------
    R : ndarray, shape (M, N, 3)
        Geometries.
    periodic : bool
        Only translations are rigid motions.
    energies : bool
        Whether each point has its energy as a coordinate after the 3 N of its forces.

    Returns
    -------
    Reduction
    """
    n_points, n_coord = len(R), 3 * R.shape[1]
    rotations, n_rotations = _rotations(R)
    if periodic:
        n_rotations[:] = 0
    parts: list[tuple[np.ndarray, ...] | None] = [None] * n_points
    for count in (3, 2, 1, 0):  # the last catches what earlier ones pass on
        points = np.flatnonzero(n_rotations == count)
        if not len(points):
            continue
        Q = np.concatenate([_translations(len(points), n_coord), rotations[points, :, :count]], axis=2)
        drop = _pivots(Q)
        Q_drop = np.take_along_axis(Q, drop[:, :, None], axis=1)
        # Q is orthonormal, so the condition number of B is at most the inverse of this singular value.
        well = 1 / np.linalg.svd(Q_drop, compute_uv=False)[:, -1] <= _MAX_CONDITION
        if count:
            n_rotations[points[~well]] = 0
            points, drop, Q, Q_drop = points[well], drop[well], Q[well], Q_drop[well]
        dropped = np.zeros((len(points), n_coord), dtype=bool)
        np.put_along_axis(dropped, drop, True, axis=1)
        keep = np.nonzero(~dropped)[1].reshape(len(points), n_coord - drop.shape[1])
        Q_keep = np.take_along_axis(Q, keep[:, :, None], axis=1)
        C = -np.linalg.solve(Q_drop.swapaxes(1, 2), Q_keep.swapaxes(1, 2))
        # Woodbury: (I + C^T C)^-1 = I - C^T (I + C C^T)^-1 C
        inner = np.linalg.solve(np.eye(drop.shape[1]) + C @ C.swapaxes(1, 2), C)
        gram_inverse = np.eye(keep.shape[1]) - C.swapaxes(1, 2) @ inner
        if energies:
            keep = np.pad(keep, ((0, 0), (0, 1)), constant_values=n_coord)
            C = np.pad(C, ((0, 0), (0, 0), (0, 1)))
            gram_inverse = np.pad(gram_inverse, ((0, 0), (0, 1), (0, 1)))
            gram_inverse[:, -1, -1] = 1.0
        for k, point in enumerate(points):
            parts[point] = (keep[k], drop[k], C[k], gram_inverse[k])
    if not periodic and (n_rotations == 0).any():
        _log.info(
            "%d of %d geometries are nearly linear: only translations are eliminated for them.",
            np.count_nonzero(n_rotations == 0),
            n_points,
        )
    kept, dropped_lists, maps, grams = (list(column) for column in zip(*parts, strict=True))
    return Reduction(Coordinates.from_lists(kept), kept, dropped_lists, maps, grams)


def remove_rigid_motions(R: Array, y: Array, periodic: bool = False) -> Array:
    """Return y, shape (3 N M,), without the parts along rigid motions of each geometry in R (M, N, 3).

    K has no such parts: what they contribute to the coefficients predicts nothing, but an iteration would chase it.
    """
    n_points, n_coord = len(R), 3 * R.shape[1]
    parts = y.reshape(n_points, n_coord).copy()
    bases = [_translations(n_points, n_coord)]
    if not periodic:
        rotations, n_rotations = _rotations(R)
        bases.append(rotations * (np.arange(3) < n_rotations[:, None])[:, None, :])
    for basis in bases:
        parts -= np.einsum("mij,mj->mi", basis, np.einsum("mij,mi->mj", basis, parts))
    return parts.ravel()


def count_independent(R: Array, periodic: bool = False, energies: bool = False) -> int:
    """Return how many labels of geometries R (M, N, 3) are independent: all but rigid motions, with energies if any."""
    n_points, n_atoms, _ = R.shape
    n_rotations = 0 if periodic else int(_rotations(R)[1].sum())
    return n_points * (3 * n_atoms - 3 + energies) - n_rotations


def _translations(n_points: int, n_coord: int) -> Array:
    """Return orthonormal translations, (n_points, n_coord, 3)."""
    one = np.tile(np.eye(3), (n_coord // 3, 1)) / np.sqrt(n_coord // 3)
    return np.broadcast_to(one, (n_points, n_coord, 3))


def _rotations(R: Array) -> tuple[Array, IntArray]:
    """Return orthonormal infinitesimal rotations (M, 3N, 3) and how many of them each geometry has."""
    centred = R - R.mean(axis=1, keepdims=True)
    motions = np.stack([np.cross(axis, centred).reshape(len(R), -1) for axis in np.eye(3)], axis=2)
    U, s, _ = np.linalg.svd(motions, full_matrices=False)
    return U, np.count_nonzero(s > _RANK_TOLERANCE * s[:, :1], axis=1)


def _pivots(Q: Array) -> IntArray:
    """Return, for each Q (m, 3N, k), k well-conditioned rows, ascending: greedy, as in pivoted QR of Q^T."""
    left = Q.copy()
    chosen = np.empty((Q.shape[0], Q.shape[2]), dtype=np.int64)
    points = np.arange(len(Q))
    for i in range(Q.shape[2]):
        chosen[:, i] = np.argmax(np.einsum("mij,mij->mi", left, left), axis=1)
        direction = left[points, chosen[:, i]]
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        left -= np.einsum("mij,mj->mi", left, direction)[:, :, None] * direction[:, None, :]
        left[points[:, None], chosen[:, : i + 1]] = 0.0
    return np.sort(chosen, axis=1)
