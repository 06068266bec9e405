"""Synthetic molecules, and groups of their atoms."""

from itertools import permutations

import numpy as np


def random_molecules(n_geo, n_atoms, seed=0):
    """Geometries with atoms at least 0.8 apart."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3) * 1.4
    base = grid[rng.permutation(len(grid))[:n_atoms]]
    return base + rng.uniform(-0.3, 0.3, (n_geo, n_atoms, 3))


def cyclic_group(n_atoms, order):
    """The cyclic group that turns the first `order` atoms."""
    perms = np.tile(np.arange(n_atoms), (order, 1))
    for i in range(order):
        perms[i, :order] = (np.arange(order) + i) % order
    return perms


def symmetric_group_of_three(n_atoms):
    """All permutations of the first three atoms."""
    return np.array([[*p, *range(3, n_atoms)] for p in permutations(range(3))])


# Sets of permutations of n atoms.
GROUPS = {
    "one": lambda n: np.arange(n)[None, :],  # nothing moves
    "all move": lambda n: cyclic_group(n, n),  # every pair has its own images
    "three atoms": symmetric_group_of_three,  # some pairs move
    "no group": lambda n: np.array([np.roll(np.arange(n), 1), np.arange(n)]),
}
