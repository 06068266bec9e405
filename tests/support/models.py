"""Models with random coefficients."""

import numpy as np

from fastgdml.descriptor import from_R, jacobian_dot, tril_perms_lin


def make_model(R_train, perms, sig=3.0, std=2.5, c=-7.0, seed=0, energies=False):
    rng = np.random.default_rng(seed)
    alphas = rng.normal(size=(len(R_train), 3 * R_train.shape[1]))
    x, g = from_R(R_train)
    model = {
        "z": np.ones(R_train.shape[1], dtype=int),
        "R_desc": x.T,
        "R_d_desc_alpha": jacobian_dot(g, alphas),
        "tril_perms_lin": tril_perms_lin(perms),
        "sig": sig,
        "std": std,
        "c": c,
    }
    if energies:
        model["alphas_E"] = rng.normal(size=len(R_train))
    return model, alphas


def make_samples(model, n_std, scale=1.25, seed=1):
    """Entries of random samples for standard deviations of a model."""
    rng = np.random.default_rng(seed)
    entries = {
        "std_R_d_desc_alpha": rng.normal(size=(n_std, *np.shape(model["R_d_desc_alpha"]))),
        "std_c": rng.normal(size=n_std),
        "std_scale": scale,
    }
    if "alphas_E" in model:
        entries["std_alphas_E"] = rng.normal(size=(n_std, len(model["alphas_E"])))
    return entries
