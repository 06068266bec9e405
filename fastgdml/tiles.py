"""Training data as the prediction kernel reads it: cut into tiles of training points, pair by pair within a tile."""

from __future__ import annotations

import numpy as np

from .descriptor import Array, IntArray

# Time that a tile costs beside that of its points, in points.
_TILE_OVERHEAD = 7


def tile_size(n_train: int, smallest: int = 48, largest: int = 128, lanes: int = 8) -> int:
    """Return the number of training points of a tile: the multiple of `lanes` that costs the least.

    The same for every instruction set and number of threads, because it decides the order of summation.
    """
    if n_train <= largest:
        return -(-n_train // lanes) * lanes
    sizes = range(smallest, largest + 1, lanes)
    return min(sizes, key=lambda tile: (-(-n_train // tile) * (tile + _TILE_OVERHEAD), -tile))


def lay_out_descriptors(x: Array, order: IntArray, sig: float) -> Array:
    """Return tiles with the descriptors x (M, D) in place and coefficients of zero.

    Parameters
    ----------
    x : ndarray, shape (M, D)
        Descriptors of the training points.
    order : ndarray of int, shape (D,)
        Pairs in the order of their classes.
    sig : float
        Length scale; descriptors are stored multiplied by sqrt(5) / sig.

    Returns
    -------
    ndarray, shape (n_tiles, 2, D, tile)
        Descriptors, then room for coefficients; points past M are zero.
    """
    tile = tile_size(len(x))
    tiles = np.zeros((-(-len(x) // tile), 2, x.shape[1], tile))
    for t, rows in _tiles(len(x), tile):
        tiles[t, 0, :, : len(rows)] = (x[rows][:, order] * (np.sqrt(5) / sig)).T
    return tiles


def lay_out_coefficients(v: Array, order: IntArray, tiles: Array) -> None:
    """Put coefficients v = J alpha (M, D) into tiles from `lay_out_descriptors`."""
    for t, rows in _tiles(len(v), tiles.shape[3]):
        tiles[t, 1, :, : len(rows)] = v[rows][:, order].T


def lay_out_energies(alphas_E: Array, tiles: Array, sig: float) -> Array:
    """Return coefficients of energy constraints (M,) as the kernel reads them, shape (n_tiles, tile)."""
    energy = np.zeros((tiles.shape[0], tiles.shape[3]))
    energy.ravel()[: len(alphas_E)] = alphas_E * (sig / np.sqrt(5))
    return energy


def _tiles(n_train: int, tile: int) -> list[tuple[int, range]]:
    return [(t, range(first, min(first + tile, n_train))) for t, first in enumerate(range(0, n_train, tile))]
