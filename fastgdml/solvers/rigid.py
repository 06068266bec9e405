"""Exact reduction of the training equations by the rigid motions of each training point.

The Jacobian J_i of the descriptor annihilates rigid motions, so the forces that a point contributes lie in a space of
3N - 6 dimensions (3N - 5 for linear molecules, 3N - 3 with a lattice). Six coordinates of each point are dropped and
all others kept; B_i = [I; C_i] maps kept to all: f_dropped = C_i f_kept. With K = B K_kk B^T, where K_kk is K without
the dropped rows and columns,

    (K + lam I) alpha = y    is solved by    (K_kk + lam (B^T B)^-1) z = (B^T B)^-1 B^T y,               (1)
    alpha = B (B^T B)^-1 z,                                                                              (2)

up to a part of alpha that predicts nothing: (2) is the solution of least norm.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from ..descriptor import Array
from ..kernel import Coordinates

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
        """Return (B^T B)^-1 B^T y for y of shape (3 N M,)."""
        parts = y.reshape(len(self.kept), -1)
        return np.concatenate(
            [
                S @ (yi[kept] + C.T @ yi[dropped])
                for yi, kept, dropped, C, S in zip(
                    parts, self.kept, self.dropped, self.C, self.gram_inverse, strict=True
                )
            ]
        )

    def expand(self, reduced: Array, n_coord: int) -> Array:
        """Return B (B^T B)^-1 z, shape (3 N M,), for reduced z."""
        alphas = np.empty((len(self.kept), n_coord))
        begin = self.rows.begin
        for i, (kept, dropped, C, S) in enumerate(
            zip(self.kept, self.dropped, self.C, self.gram_inverse, strict=True)
        ):
            w = S @ reduced[begin[i] : begin[i + 1]]
            alphas[i, kept] = w
            alphas[i, dropped] = C @ w
        return alphas.ravel()


def drop_rigid_motions(R: Array, periodic: bool = False) -> Reduction:
    """Choose the coordinates to drop for each training point.

    Parameters
    ----------
    R : ndarray, shape (M, N, 3)
        Geometries.
    periodic : bool
        Only translations are rigid motions.

    Returns
    -------
    Reduction
    """
    kept, dropped, maps, grams = [], [], [], []
    translations_only = 0
    for r in R:
        Q = _rigid_motions(r, periodic)
        drop = _pivots(Q)
        # Q is orthonormal, so the condition number of B is at most the inverse of this singular value.
        if 1 / np.linalg.svd(Q[drop], compute_uv=False)[-1] > _MAX_CONDITION:
            Q = _rigid_motions(r, periodic=True)
            drop = _pivots(Q)
            translations_only += 1
        keep = np.setdiff1d(np.arange(len(Q)), drop)
        C = -np.linalg.solve(Q[drop].T, Q[keep].T)
        kept.append(keep)
        dropped.append(drop)
        maps.append(C)
        # Woodbury: (I + C^T C)^-1
        grams.append(np.eye(len(keep)) - C.T @ np.linalg.solve(np.eye(len(drop)) + C @ C.T, C))
    if translations_only:
        _log.info("%d geometries are nearly linear: only translations are eliminated for them.", translations_only)
    return Reduction(Coordinates.from_lists(kept), kept, dropped, maps, grams)


def _rigid_motions(r: Array, periodic: bool) -> Array:
    """Return an orthonormal basis (3N, n) of infinitesimal translations and rotations of geometry r (N, 3)."""
    n_atoms = len(r)
    translations = np.tile(np.eye(3), (n_atoms, 1)) / np.sqrt(n_atoms)
    if periodic:
        return translations
    centred = r - r.mean(axis=0)
    centred /= np.linalg.norm(centred)
    rotations = np.stack([np.cross(axis, centred).ravel() for axis in np.eye(3)], axis=1)
    U, s, _ = np.linalg.svd(rotations, full_matrices=False)
    return np.hstack([translations, U[:, s > _RANK_TOLERANCE * s[0]]])


def _pivots(Q: Array) -> np.ndarray:
    """Return as many rows of Q as it has columns, well-conditioned: greedy, as in pivoted QR of Q^T."""
    left, chosen = Q.copy(), []
    for _ in range(Q.shape[1]):
        row = int(np.argmax(np.einsum("ij,ij->i", left, left)))
        chosen.append(row)
        direction = left[row] / np.linalg.norm(left[row])
        left -= np.outer(left @ direction, direction)
        left[chosen] = 0.0
    return np.sort(np.array(chosen))
