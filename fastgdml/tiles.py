"""Training data as the prediction kernel reads it: cut into tiles of training points, pair by pair within a tile."""

from __future__ import annotations

import numpy as np

from .descriptor import Array, IntArray
from .pair_classes import PairClasses

# Time that a tile costs beside that of its points, in points.
_TILE_OVERHEAD = 7


# Scratch that a thread may take for the permutations of one geometry.
_SCRATCH_BYTES = 2**24


def tile_size(n_train: int, n_rows: int, smallest: int = 48, largest: int = 128, lanes: int = 8) -> int:
    """Return the number of training points of a tile: the multiple of `lanes` that costs the least.

    The same for every instruction set and number of threads, because it decides the order of summation. Scratch holds
    `n_rows` pairs of numbers for each point of a tile: tiles are smaller for large permutation groups.
    """
    largest = min(largest, max(lanes, _SCRATCH_BYTES // (16 * n_rows) // lanes * lanes))
    if n_train <= largest:
        return -(-n_train // lanes) * lanes
    sizes = range(min(smallest, largest), largest + 1, lanes)
    return min(sizes, key=lambda tile: (-(-n_train // tile) * (tile + _TILE_OVERHEAD), -tile))


def lay_out_descriptors(x: Array, classes: PairClasses, sig: float) -> Array:
    """Return tiles with the descriptors x (M, D) in place and coefficients of zero.

    Parameters
    ----------
    x : ndarray, shape (M, D)
        Descriptors of the training points.
    classes : PairClasses
        Classes of pairs; pairs are stored in their order.
    sig : float
        Length scale; descriptors are stored multiplied by sqrt(5) / sig.

    Returns
    -------
    ndarray, shape (n_tiles, 2, D, tile)
        Descriptors, then room for coefficients; points past M are zero.
    """
    tile = tile_size(len(x), int(classes.class_image[-1]) + classes.perm_image.shape[1])
    tiles = np.zeros((-(-len(x) // tile), 2, x.shape[1], tile))
    for t, rows in _tiles(len(x), tile):
        tiles[t, 0, :, : len(rows)] = (x[rows][:, classes.order] * (np.sqrt(5) / sig)).T
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
