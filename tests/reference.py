"""The oracle: every formula of the method in plain NumPy with dense Jacobians. Slow and obviously right.

Nothing of the package is imported here.
"""

import numpy as np


def rounded(d, lattice):
    """The image of d by sGDML's rule."""
    return d - lattice @ np.round(np.linalg.inv(lattice) @ d)


def nearest(d, lattice):
    """The nearest image of d: every lattice vector that can be nearest is tried."""
    d = rounded(d, lattice)
    # |L n| <= |d| + |d - L n| <= 2 |d|, and n = L^-1 (L n).
    reach = np.floor(2 * np.linalg.norm(d) * np.linalg.norm(np.linalg.inv(lattice), axis=1)).astype(int)
    n = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in reach], indexing="ij"), -1).reshape(-1, 3)
    images = d - n @ lattice.T
    return images[np.argmin((images**2).sum(axis=1))]


def descriptor(r, lattice=None, image=rounded, weights=None):
    """x (D,) and the dense Jacobian dx/dr (D, 3 N) of one geometry r (N, 3); weights (D,) of pairs."""
    n_atoms = len(r)
    pairs = list(zip(*np.tril_indices(n_atoms, -1), strict=True))
    x, J = np.zeros(len(pairs)), np.zeros((len(pairs), n_atoms, 3))
    for k, (a, b) in enumerate(pairs):
        d = r[a] - r[b]
        if lattice is not None:
            d = image(d, lattice)
        x[k] = 1 / np.linalg.norm(d)
        J[k, a] = -d * x[k] ** 3
        J[k, b] = d * x[k] ** 3
    w = np.ones(len(pairs)) if weights is None else weights
    return w * x, w[:, None] * J.reshape(len(pairs), -1)


def pair_permutation_matrix(perm):
    """P with (P x)_k = x_l, where l is the pair that pair k becomes under perm."""
    n_atoms = len(perm)
    pairs = [tuple(sorted(p)) for p in zip(*np.tril_indices(n_atoms, -1), strict=True)]
    P = np.zeros((len(pairs), len(pairs)))
    for k, (a, b) in enumerate(pairs):
        P[k, pairs.index(tuple(sorted((perm[a], perm[b]))))] = 1
    return P


def matern(d, sig):
    """The Matern function k(d) = (1 + n / s + n^2 / (3 s^2)) exp(-n / s), n = sqrt(5) |d|, its gradient and Hessian."""
    n = np.sqrt(5) * np.linalg.norm(d)
    b = 5 * np.exp(-n / sig) / (3 * sig**4)
    value = (1 + n / sig + n**2 / (3 * sig**2)) * np.exp(-n / sig)
    return value, -b * sig * (sig + n) * d, 5 * b * np.outer(d, d) - b * sig * (sig + n) * np.eye(len(d))


def kernel_block(x_i, J_i, x_j, J_j, perms, sig):
    """The (3N + 1, 3N + 1) block of two points: 3N force coordinates, then the negative energy.

    With d = x_i - P_p x_j, summed over p: FF = J_i^T k''(d) P_p J_j, FE = -J_i^T k'(d), EF = k'(d)^T P_p J_j,
    EE = -k(d).
    """
    n_coord = J_i.shape[1]
    K = np.zeros((n_coord + 1, n_coord + 1))
    for perm in perms:
        P = pair_permutation_matrix(perm)
        value, gradient, hessian = matern(x_i - P @ x_j, sig)
        K[:-1, :-1] += J_i.T @ hessian @ P @ J_j
        K[:-1, -1] -= J_i.T @ gradient
        K[-1, :-1] += gradient @ P @ J_j
        K[-1, -1] -= value
    return K


def kernel_matrix(R, perms, sig, lattice=None, energies=False, weights=None):
    """K (3NM, 3NM); with energies (3NM + M, 3NM + M), those of all points after all forces."""
    points = [descriptor(r, lattice, weights=weights) for r in R]
    blocks = np.array([[kernel_block(*i, *j, perms, sig) for j in points] for i in points])
    corners = [[blocks[:, :, :-1, :-1], blocks[:, :, :-1, -1:]], [blocks[:, :, -1:, :-1], blocks[:, :, -1:, -1:]]]
    if not energies:
        corners = [[corners[0][0]]]
    return np.block([[np.block([list(row) for row in corner]) for corner in row] for row in corners])


def predict(R, R_train, alphas, perms, sig, std, c, lattice=None, alphas_E=None, weights=None):
    """Energies (n,) and forces (n, N, 3) of geometries R from coefficients alphas (M, 3N), alphas_E (M,)."""
    matrices = [pair_permutation_matrix(p) for p in perms]
    train = [descriptor(r, lattice, weights=weights) for r in R_train]
    alphas_E = np.zeros(len(R_train)) if alphas_E is None else alphas_E
    E, F = np.zeros(len(R)), np.zeros((len(R), R.shape[1] * 3))
    for i, r in enumerate(R):
        x, J = descriptor(r, lattice, weights=weights)
        minus_dE_dx = np.zeros(len(x))
        for (x_j, J_j), alpha, alpha_E in zip(train, alphas, alphas_E, strict=True):
            for P in matrices:
                d, v = x - P @ x_j, P @ (J_j @ alpha)
                n = np.sqrt(5) * np.linalg.norm(d)
                c5 = 5 * np.exp(-n / sig) / (3 * sig**3)
                t = d @ v
                E[i] += c5 * (n + sig) * t
                minus_dE_dx += 5 / sig * c5 * t * d - c5 * (n + sig) * v
                value, gradient, _ = matern(d, sig)
                E[i] += alpha_E * value
                minus_dE_dx -= alpha_E * gradient
        F[i] = J.T @ minus_dE_dx
    return std * E + c, std * F.reshape(R.shape)
