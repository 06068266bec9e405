"""Errors of rounding of predictions, against extended precision, within the budget of docs/theory/errors.md."""

import numpy as np
import pytest

from fastgdml.descriptor import n_atoms_of, pair_perms_from_lin
from fastgdml.predict import GDMLPredict

pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).eps > 1e-18, reason="long double is no wider than double on this machine"
)

EPS = np.finfo(np.float64).eps
# What the largest of the sums below is multiplied by.
ENERGY, FORCE = 1, 1


def extended(r, model):
    """Energy and forces (3 N,) in extended precision, and the sums that bound their errors, in units of EPS.

    The model's numbers are taken as they are; equations (5) of src/prediction.c.
    """
    wide = np.longdouble
    r = np.asarray(r, dtype=wide).reshape(-1, 3)
    points = np.asarray(model["R_desc"], dtype=wide).T
    coefficients = np.asarray(model["R_d_desc_alpha"], dtype=wide)
    sig, std, c = (wide(float(model[key])) for key in ("sig", "std", "c"))
    perms = pair_perms_from_lin(model["tril_perms_lin"], points.shape[1])
    high, low = np.tril_indices(n_atoms_of(points.shape[1]), -1)
    diff = r[high] - r[low]
    distance = np.sqrt((diff**2).sum(axis=1))
    x, g = 1 / distance, diff / distance[:, None] ** 3
    # Coordinates are exact; their differences lose what coordinates are longer than distances.
    lost = 1 + (np.abs(r[high]) + np.abs(r[low])).max(axis=1) / distance
    energy, energy_bound = wide(0), wide(0)
    slope, slope_bound = np.zeros_like(x), np.zeros_like(x)
    for x_j, v_j in zip(points, coefficients, strict=True):
        for perm in perms:
            d, v = x - x_j[perm], v_j[perm]
            rho = np.sqrt(wide(5)) * np.sqrt((d**2).sum()) / sig
            c5 = 5 * np.exp(-rho) / (3 * sig**3)
            t = d @ v
            of_d = lost * x + np.abs(d)
            of_rho = np.sqrt(wide(5)) * (np.abs(d) @ of_d) / max(np.sqrt((d**2).sum()), wide(1e-300)) / sig
            of_t = of_d @ np.abs(v) + of_rho * abs(t)
            energy += c5 * sig * (rho + 1) * t
            energy_bound += c5 * sig * (rho + 1) * of_t
            slope += 5 / sig * c5 * t * d - c5 * sig * (rho + 1) * v
            slope_bound += 5 / sig * c5 * (of_t * np.abs(d) + abs(t) * of_d)
            slope_bound += c5 * sig * (rho + 1) * np.abs(v) * (1 + of_rho)
    forces, bounds = np.zeros_like(r), np.zeros_like(r)
    for a, b, f, s in zip(
        high, low, slope[:, None] * g, (slope_bound + lost * np.abs(slope))[:, None] * np.abs(g), strict=True
    ):
        forces[b] += f
        forces[a] -= f
        bounds[a] += s
        bounds[b] += s
    total = std * energy + c
    return total, std * forces.ravel(), std * energy_bound + abs(total), std * bounds.ravel()


def test_predictions_keep_to_their_error_budget(ethanol_model, ethanol, isa):
    worst_E = worst_F = 0.0
    R = np.concatenate([ethanol["R"][:12], ethanol["R"][:4] + 1000.0])  # and far from the origin
    E, F = GDMLPredict(ethanol_model).predict(R.reshape(len(R), -1))
    for i, r in enumerate(R):
        E_wide, F_wide, of_E, of_F = extended(r, ethanol_model)
        worst_E = max(worst_E, float(abs(E[i] - E_wide) / (EPS * of_E)))
        worst_F = max(worst_F, float((np.abs(F[i] - F_wide) / (EPS * of_F)).max()))
    print(f"errors by their bounds without a factor: energy {worst_E:.3f}, forces {worst_F:.3f}")
    assert worst_E < ENERGY
    assert worst_F < FORCE
    assert worst_F > 1e-6  # the bound is one of these numbers, not of any
