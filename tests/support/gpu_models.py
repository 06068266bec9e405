"""Models and comparisons for the tests of the GPU backend, with and without a device."""

import numpy as np

from fastgdml import descriptor
from fastgdml.cell import Cell
from support.molecules import random_molecules

SKEWED = np.array([[6.2, 2.8, -1.8], [0.0, 5.8, 2.4], [0.0, 0.0, 6.6]])
CELLS = {
    "molecule": None,
    "rounding": Cell(SKEWED, "rounding"),
    "minimum": Cell(SKEWED, "minimum"),
    "box": Cell(np.diag([6.0, 6.2, 6.4])),
}


def make_model(n_train, perms, cell=None, energies=False, sig=3.0, std=2.5, c=-7.0, seed=0):
    """A model with random coefficients."""
    perms = np.asarray(perms)
    R_train = random_molecules(n_train, perms.shape[1])
    rng = np.random.default_rng(seed)
    alphas = rng.normal(size=(n_train, 3 * perms.shape[1]))
    x, g = descriptor.from_R(R_train, cell)
    model = {
        "z": np.ones(perms.shape[1], dtype=int),
        "R_desc": x.T,
        "R_d_desc_alpha": descriptor.jacobian_dot(g, alphas),
        "tril_perms_lin": descriptor.tril_perms_lin(perms),
        "sig": sig,
        "std": std,
        "c": c,
        # For the oracle; a model in a file has them, too.
        "alphas_F": alphas,
    }
    if energies:
        model["alphas_E"] = rng.normal(size=n_train)
    if cell is not None:
        model |= {"lattice": cell.lattice, "image_rule": cell.image_rule}
    return model


def model_of(reference):
    """The model of one case of the reference arrays."""
    keys = ("z", "R_d_desc_alpha", "tril_perms_lin", "sig", "std", "c", "lattice", "alphas_E")
    return {key: reference[key] for key in keys if key in reference} | {"R_desc": reference["R_desc"].T}


def rounding_of(reference):
    """What rounding may change of energies, and of forces: coefficients of energies are huge and of both signs.

    Each of their terms is rounded a few times.
    """
    coefficients = np.abs(reference.get("alphas_E", 0.0)).sum() * len(reference["perms"])
    energies = 4 * float(reference["std"]) * np.finfo(float).eps * coefficients
    return energies, energies / float(reference["sig"])


def to_host(array):
    return array.get() if hasattr(array, "get") else np.asarray(array)


def assert_close(ours, theirs, tolerance=1e-10, rounding=(0.0, 0.0, 0.0)):
    """Compare results one by one, relative to the largest element of each, and with some room for rounding."""
    for one, other, room in zip(ours, theirs, rounding[: len(theirs)], strict=True):
        one = to_host(one)
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max() + room)
