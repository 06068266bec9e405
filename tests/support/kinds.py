"""One model of each kind, with geometries to predict and their lattice vectors, if they are to be given."""

import numpy as np

from fastgdml.cell import Cell
from fastgdml.descriptor import from_R, jacobian_dot, pair_permutation, perms_from_lin
from fastgdml.permutations import complete_group

from .crystals import TRICLINIC, crystal, varying_lattices
from .models import make_model
from .molecules import GROUPS, random_molecules


def molecule(group="three atoms", n_atoms=6, n_train=70, energies=False):
    model, _ = make_model(random_molecules(n_train, n_atoms), GROUPS[group](n_atoms), energies=energies)
    return model, random_molecules(2, n_atoms, seed=9), None


def periodic(rule, lattice=TRICLINIC, energies=False):
    """A model of one cell, or of a cell for each point; `rule` as in model files."""
    varies = np.ndim(lattice) == 3
    R = crystal(30, lattice)
    x, g = from_R(R, Cell(lattice, rule))
    model, alphas = make_model(R, [[0, 1, 2, 3], [1, 0, 2, 3]], energies=energies)
    model |= {"R_desc": x.T, "R_d_desc_alpha": jacobian_dot(g, alphas), "lattice": np.asarray(lattice)}
    model["image_rule"] = rule
    return model, crystal(2, TRICLINIC, seed=5), TRICLINIC if varies else None


def weighted(model, R, lattice):
    """The same model with weights of pairs, the same for all images of a pair."""
    perms = perms_from_lin(model["tril_perms_lin"], len(model["R_desc"]))
    orbit = np.min([pair_permutation(perm) for perm in complete_group(perms)], axis=0)
    weights = np.exp(np.random.default_rng(3).uniform(-0.7, 0.7, len(orbit)))[orbit]
    scaled = {"R_desc": model["R_desc"] * weights[:, None], "desc_weights": weights}
    return {**model, **scaled}, R, lattice


KINDS = {
    **{f"group: {name}": lambda name=name: molecule(name) for name in GROUPS},
    "two atoms": lambda: molecule("one", 2, 5),
    "one training point": lambda: molecule("all move", 4, 1),
    "energy constraints": lambda: molecule(energies=True),
    "weights of pairs": lambda: weighted(*molecule(energies=True)),
    "weights in a cell": lambda: weighted(*periodic("minimum")),
    "nearest image": lambda: periodic("minimum"),
    "rounded image": lambda: periodic("rounding", energies=True),
    "any cell": lambda: periodic("minimum", varying_lattices(30)),
}
