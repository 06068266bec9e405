"""Second derivatives: their time beside that of predictions, and of finite differences of the same forces.

    python benchmarks/hessian.py [--points 1000] [--threads 1]

Random coefficients: the time does not depend on them. Differences are central, 6 N predictions in one call. For each
molecule: one geometry a call, then the Hessian in predictions of one geometry, which 3 N / 4 shall bound, and how many
times as long the differences take. Beside the times stands the deviation of the two, in units of the largest element.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import best_of, grid_molecules, methyl_group

from fastgdml.descriptor import from_R, jacobian_dot, tril_perms_lin
from fastgdml.predict import GDMLPredict

# Atoms and permutations: water, ethanol, aspirin, and the larger two without symmetry.
CASES = ((3, 2), (9, 1), (9, 6), (21, 1), (21, 6))


def predictor_of(n_atoms: int, n_perms: int, n_train: int, n_threads: int) -> GDMLPredict:
    x, g = from_R(grid_molecules(n_train, n_atoms))
    alphas = np.random.default_rng(0).normal(size=(n_train, 3 * n_atoms))
    model = {
        "z": np.ones(n_atoms, dtype=int),
        "R_desc": x.T,
        "R_d_desc_alpha": jacobian_dot(g, alphas),
        "tril_perms_lin": tril_perms_lin(methyl_group(n_atoms, n_perms)),
        "sig": 10,
        "std": 1.0,
        "c": 0.0,
    }
    return GDMLPredict(model, max_processes=n_threads)


def by_differences(predictor: GDMLPredict, r: np.ndarray, h: float = 1e-4) -> np.ndarray:
    steps = h * np.eye(r.size)
    _, F = predictor.predict(np.concatenate([r + steps, r - steps]))
    return (F[r.size :] - F[: r.size]) / (2 * h)


def measure(n_atoms: int, n_perms: int, n_train: int, n_threads: int) -> None:
    predictor = predictor_of(n_atoms, n_perms, n_train, n_threads)
    r = grid_molecules(1, n_atoms, seed=1).reshape(1, -1)
    prediction = best_of(lambda: [predictor.predict(r) for _ in range(10)], 20) / 10
    exact = best_of(lambda: predictor.hessian(r), 20)
    differences = best_of(lambda: by_differences(predictor, r[0]), 5)
    H = predictor.hessian(r)[0]
    deviation = np.abs(by_differences(predictor, r[0]) - H).max() / np.abs(H).max()
    print(f"{n_atoms} atoms, {n_perms} permutations: prediction {1e6 * prediction:.1f} us, ", end="")
    print(
        f"Hessian {1e6 * exact:.1f} us = {exact / prediction:.2f} predictions (3N/4 = {0.75 * n_atoms:.2f}), ", end=""
    )
    print(
        f"differences {1e6 * differences:.0f} us = {differences / exact:.2f} times as long, deviation {deviation:.0e}"
    )


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few points, to see that it runs")
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    for n_atoms, n_perms in CASES[:2] if args.smoke else CASES:
        measure(n_atoms, n_perms, 20 if args.smoke else args.points, args.threads)


if __name__ == "__main__":
    main()
