"""Large groups: those of crystals and of many like molecules."""

from itertools import product

import numpy as np

from fastgdml.descriptor import from_R, jacobian_dot, tril_perms_lin
from fastgdml.permutations import complete_group

BCC, FCC = [[0, 0, 0], [1, 1, 1]], [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]


def crystal_group(n_cells, basis, point_group=True):
    """Translations, and rotations of the cube, of a periodic crystal as permutations of its atoms.

    Places are integers: `basis` within a cell of edge 2.
    """
    edge = 2 * n_cells
    places = [
        tuple((2 * np.array(cell) + b) % edge) for cell in product(range(n_cells), repeat=3) for b in np.array(basis)
    ]
    number = {place: i for i, place in enumerate(places)}

    def perm(move):
        return [number[tuple(np.asarray(move(np.array(place))) % edge)] for place in places]

    moves = [lambda r: r]
    moves += [lambda r, t=t: r + t for t in (*(2 * np.eye(3, dtype=int)), *np.array(basis))]
    if point_group:
        moves += [lambda r: r[[1, 0, 2]], lambda r: r[[1, 2, 0]], lambda r: r * [-1, 1, 1]]
    return complete_group(np.unique([perm(move) for move in moves], axis=0))


def tripods(n_molecules):
    """Molecules of one centre and three like atoms, each with its own symmetric group."""
    n_atoms = 4 * n_molecules
    generators = [np.arange(n_atoms)]
    for first in range(1, n_atoms, 4):
        for swapped in ([1, 0, 2], [1, 2, 0]):
            generators.append(np.arange(n_atoms))
            generators[-1][first : first + 3] = first + np.array(swapped)
    return complete_group(np.array(generators))


def model_of(R, perms, seed=0):
    alphas = np.random.default_rng(seed).normal(size=(len(R), 3 * R.shape[1]))
    x, g = from_R(R)
    return {
        "z": np.ones(R.shape[1], dtype=int),
        "R_desc": x.T,
        "R_d_desc_alpha": jacobian_dot(g, alphas),
        "tril_perms_lin": tril_perms_lin(perms),
        "sig": 4.0,
        "std": 1.5,
        "c": 0.0,
    }, alphas
