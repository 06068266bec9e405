"""Periodic cells, and datasets of atoms in them."""

import numpy as np

from fastgdml.cell import Cell
from fastgdml.dataset import create_dataset
from fastgdml.descriptor import from_R

HEXAGONAL = np.array([[4.0, 2.0, 0.0], [0.0, 4.0 * np.sqrt(0.75), 0.0], [0.0, 0.0, 6.0]])
FCC = np.array([[0.0, 2.0, 2.0], [2.0, 0.0, 2.0], [2.0, 2.0, 0.0]])
TRICLINIC = np.array([[4.0, 1.1, -0.7], [0.0, 5.0, 1.9], [0.0, 0.0, 4.4]])
SHEARED = np.array([[4.0, 11.0, -17.0], [0.0, 5.0, 23.0], [0.0, 0.0, 4.4]])
LATTICES = {"hexagonal": HEXAGONAL, "fcc": FCC, "triclinic": TRICLINIC, "sheared": SHEARED}


def springs(R, cell):
    """Energies and forces of a Morse potential between every pair, at its image in the cell."""
    x, g = from_R(R, cell)
    decay = np.exp(-0.7 * (1 / x - 2.2))
    E, dE_dx = (1 - decay) ** 2, -1.4 * (1 - decay) * decay / x**2
    F = np.zeros(R.shape)
    for k, (a, b) in enumerate(zip(*np.tril_indices(R.shape[1], -1), strict=True)):
        F[:, b] -= dE_dx[:, k, None] * g[:, k]
        F[:, a] += dE_dx[:, k, None] * g[:, k]
    return E.sum(axis=1), F


def crystal(n_geo, lattice, seed=0, n_atoms=4):
    """Geometries with atoms that rattle about fixed fractional places in one cell, or in one for each."""
    rng = np.random.default_rng(seed)
    places = np.array([[0.05, 0.1, 0.1], [0.45, 0.1, 0.2], [0.1, 0.55, 0.15], [0.15, 0.2, 0.6]])[:n_atoms]
    lattice = np.broadcast_to(lattice, (n_geo, 3, 3))
    R = np.einsum("nij,aj->nai", lattice, places) + rng.uniform(-0.15, 0.15, (n_geo, n_atoms, 3))
    shifts = rng.integers(-1, 2, (n_geo, n_atoms, 3))  # wrapped anyhow
    return R + np.einsum("nij,naj->nai", lattice, shifts)


def periodic_dataset(lattice, n_geo=160, rule="minimum"):
    lattice = np.asarray(lattice)
    R = crystal(n_geo, lattice)
    E, F = springs(R, Cell(lattice, rule))
    return create_dataset("cell", "morse", [14, 14, 6, 8][: R.shape[1]], R, F, E, lattice=lattice)


def varying_lattices(n_geo, seed=3):
    rng = np.random.default_rng(seed)
    return TRICLINIC * 1.3 @ (np.eye(3) + rng.uniform(-0.03, 0.03, (n_geo, 3, 3)))
