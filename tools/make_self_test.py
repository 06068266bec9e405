"""Make the numbers that `fastgdml doctor` compares with: ``fastgdml/data/self_test.json``.

They are those of the formulas in plain NumPy, tests/reference.py: a model of 40 geometries of the shipped ethanol,
solved with `numpy.linalg.solve`, and its energies and forces of a few others.

Run::

    PYTHONPATH=tests python tools/make_self_test.py fastgdml/data/self_test.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import reference

from fastgdml.dataset import load_dataset

N_TRAIN, STRIDE, SIG, LAM = 40, 47, 20.0, 1e-10
TEST = [5, 333, 1000, 1777]
PERMS = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8],
    [0, 1, 2, 3, 4, 5, 7, 8, 6],
    [0, 1, 2, 3, 4, 5, 8, 6, 7],
    [0, 1, 2, 3, 5, 4, 6, 8, 7],
    [0, 1, 2, 3, 5, 4, 8, 7, 6],
    [0, 1, 2, 3, 5, 4, 7, 6, 8],
]


def main() -> None:
    """Compute and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    target = parser.parse_args().target
    dataset = load_dataset("ethanol")
    idxs = STRIDE * np.arange(N_TRAIN)
    R, F, E = dataset["R"][idxs], dataset["F"][idxs], np.ravel(dataset["E"])[idxs]
    perms = np.array(PERMS)
    std = float(np.std(F))
    K = reference.kernel_matrix(R, perms, SIG)
    # K is minus the covariance of forces: K alpha = F / std, with the regularisation on the other side.
    alphas = np.linalg.solve(K - LAM * np.eye(len(K)), F.ravel() / std).reshape(N_TRAIN, -1)
    c = float(np.mean(E - reference.predict(R, R, alphas, perms, SIG, std, 0.0)[0]))
    E_test, F_test = reference.predict(dataset["R"][TEST], R, alphas, perms, SIG, std, c)
    values = {
        "n_train": N_TRAIN,
        "stride": STRIDE,
        "sig": SIG,
        "lam": LAM,
        "perms": PERMS,
        "test": TEST,
        "E": E_test.tolist(),
        "F": F_test.tolist(),
    }
    target.write_text(json.dumps(values) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
